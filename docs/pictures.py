"""Draws the pictures of these pages, one for a light page and one for a dark page.

    python docs/pictures.py

Each picture is an SVG file in `docs/images`, drawn from the boxes and arrows below.
`tests/docs_test.py` says when the script must be run again.
"""

import pathlib
from html import escape
from typing import NamedTuple

IMAGES = pathlib.Path(__file__).parent / "images"
FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif"


class Theme(NamedTuple):
    """Colours of a page: text, arrows, and (fill, border) of each kind of box."""

    text: str
    quiet: str
    line: str
    boxes: dict


THEMES = {
    "light": Theme("#1c2733", "#5b6875", "#7a8794", {
        "data": ("#eef1f4", "#9aa6b2"), "student": ("#e3f0ff", "#2f7fd6"),
        "teacher": ("#fff1dc", "#d98a1f"), "term": ("#e6f6ea", "#2f9e57"),
        "update": ("#f3e8ff", "#8a4fd0"),
    }),
    "dark": Theme("#e8edf2", "#a5b1bd", "#8593a1", {
        "data": ("#2b333c", "#76828f"), "student": ("#17324f", "#5aa5f2"),
        "teacher": ("#46331a", "#e7a548"), "term": ("#183a26", "#56c27d"),
        "update": ("#35234c", "#b184ec"),
    }),
}  # fmt: skip


class Box(NamedTuple):
    """A box with a title and a line below it; `x` and `y` are its upper left corner."""

    x: float
    y: float
    kind: str
    title: str
    note: str = ""
    width: float = 150
    height: float = 56

    def svg(self, theme):
        fill, border = theme.boxes[self.kind]
        middle = self.x + self.width / 2
        first = self.y + self.height / 2 + (-3 if self.note else 5)
        parts = [
            f'<rect x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}" rx="9" '
            f'fill="{fill}" stroke="{border}" stroke-width="1.6"/>',
            text(middle, first, self.title, theme.text, 15, "600"),
        ]
        if self.note:
            parts.append(text(middle, first + 18, self.note, theme.quiet, 12))
        return parts


class Arrow(NamedTuple):
    """A line through `points` that ends in a head; `label` stands at `at`."""

    points: tuple
    label: str = ""
    at: tuple = (0, 0)
    dashed: bool = False
    anchor: str = "middle"

    def svg(self, theme):
        path = "M" + " L".join(f"{x} {y}" for x, y in self.points)
        dash = ' stroke-dasharray="5 4"' if self.dashed else ""
        parts = [
            f'<path d="{path}" fill="none" stroke="{theme.line}" stroke-width="1.6"{dash} '
            'marker-end="url(#head)"/>'
        ]
        if self.label:
            parts.append(text(*self.at, self.label, theme.quiet, 12, anchor=self.anchor))
        return parts


class Gain(NamedTuple):
    """A row of a chart: a gain in points over a student alone, with its error; 0 is at `ZERO`."""

    y: float
    what: str
    gain: float
    error: float
    kind: str = "student"

    def svg(self, theme):
        fill, border = theme.boxes[self.kind]
        left, right = (ZERO + POINT * each for each in sorted((0.0, self.gain)))
        low, high = (ZERO + POINT * (self.gain + side * self.error) for side in (-1, 1))
        middle = self.y + 11
        said = f"{self.gain:+.2f} \u00b1 {self.error:.2f}"
        return [
            text(ZERO - 150, self.y + 16, self.what, theme.text, 13, anchor="end"),
            f'<rect x="{left:.1f}" y="{self.y}" width="{max(right - left, 1):.1f}" height="22" '
            f'fill="{fill}" stroke="{border}" stroke-width="1.4"/>',
            f'<path d="M{low:.1f} {middle} H{high:.1f}" stroke="{theme.text}" stroke-width="1.4"/>',
            text(max(high, ZERO) + 8, self.y + 16, said, theme.quiet, 12, anchor="start"),
        ]


ZERO, POINT = 500, 100  # where a gain of 0 is drawn, and how wide a point is


class Words(NamedTuple):
    """A line of text."""

    x: float
    y: float
    words: str
    size: int = 12
    weight: str = "400"
    anchor: str = "middle"

    def svg(self, theme):
        color = theme.text if self.weight != "400" else theme.quiet
        return [text(self.x, self.y, self.words, color, self.size, self.weight, self.anchor)]


class Dot(NamedTuple):
    """A value with its error, on a line of a chart that begins at `x` with the value `low`."""

    x: float
    y: float
    low: float
    unit: float  # how wide 1 is
    value: float
    error: float
    kind: str
    said: str

    def svg(self, theme):
        fill, border = theme.boxes[self.kind]
        middle, low, high = (self.x + self.unit * (self.value + side * self.error - self.low)
                             for side in (0, -1, 1))  # fmt: skip
        return [
            f'<path d="M{self.x} {self.y} H{self.x + 170}" stroke="{theme.line}" '
            'stroke-width="1" stroke-dasharray="1 4"/>',
            f'<path d="M{low:.1f} {self.y} H{high:.1f}" stroke="{border}" stroke-width="2.4"/>',
            f'<circle cx="{middle:.1f}" cy="{self.y}" r="6" fill="{fill}" stroke="{border}" '
            'stroke-width="2"/>',
            text(self.x + 180, self.y + 4, self.said, theme.quiet, 12, anchor="start"),
        ]


def columns(**notes):
    """The headings of a picture with three columns, a note below each."""
    return [words for x, (title, note) in zip((125, 380, 635), notes.items())
            for words in (Words(x, 24, title, 16, "600"), Words(x, 44, note))]  # fmt: skip


def text(x, y, words, color, size, weight="400", anchor="middle"):
    return (
        f'<text x="{x}" y="{y}" fill="{color}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )


STEP = (760, 250, "One training step: the student and the teachers read the batch, terms compare "
        "what they show, and one update changes the student.", [
    Box(10, 90, "data", "Batch", "inputs, labels", 120),
    Box(200, 25, "student", "Student", "runs once"),
    Box(200, 160, "teacher", "Teachers", "any source of targets"),
    Box(430, 90, "term", "Terms", "what, where, which loss", 160),
    Box(640, 90, "update", "One update", "of the student", 112),
    Arrow(((130, 108), (165, 108), (165, 53), (196, 53))),
    Arrow(((130, 128), (165, 128), (165, 188), (196, 188))),
    Arrow(((350, 53), (395, 53), (395, 105), (426, 105)), "features", (400, 44)),
    Arrow(((350, 188), (395, 188), (395, 131), (426, 131)), "targets", (398, 206)),
    Arrow(((590, 118), (636, 118)), "total", (612, 109)),
    Arrow(((275, 81), (275, 156)), "“self”", (283, 124), True, "start"),
    Arrow(((70, 90), (70, 12), (696, 12), (696, 86)), "label loss", (540, 28)),
    Arrow(((696, 146), (696, 236), (275, 236), (275, 220)), "EMATeacher follows the student",
          (500, 228), True),
])  # fmt: skip

KNOWLEDGE = (760, 240, "Response knowledge compares outputs, feature knowledge compares layers, "
             "relation knowledge compares distances between examples.", [
    *columns(Response="what the model outputs", Feature="what a layer outputs",
             Relation="how examples relate"),
    Box(15, 70, "teacher", "Teacher", "", 100, 44), Box(15, 165, "student", "Student", "", 100, 44),
    Box(160, 70, "data", "softmax", "", 75, 44), Box(160, 165, "data", "softmax", "", 75, 44),
    Arrow(((115, 92), (156, 92))), Arrow(((115, 187), (156, 187))),
    Arrow(((197, 114), (197, 161)), "KL", (205, 142), False, "start"),
    Box(270, 70, "teacher", "layer", "", 64, 44), Box(348, 70, "teacher", "layer 4", "", 64, 44),
    Box(426, 70, "teacher", "head", "", 64, 44),
    Box(270, 165, "student", "layer", "", 64, 44), Box(348, 165, "student", "layer 2", "", 64, 44),
    Box(426, 165, "student", "head", "", 64, 44),
    Arrow(((334, 92), (345, 92))), Arrow(((412, 92), (423, 92))),
    Arrow(((334, 187), (345, 187))), Arrow(((412, 187), (423, 187))),
    Arrow(((380, 114), (380, 161)), "MSE, after a projector", (388, 142), False, "start"),
    Box(525, 75, "teacher", "a", "", 34, 34), Box(600, 60, "teacher", "b", "", 34, 34),
    Box(690, 85, "teacher", "c", "", 34, 34),
    Box(525, 175, "student", "a", "", 34, 34), Box(590, 190, "student", "b", "", 34, 34),
    Box(690, 165, "student", "c", "", 34, 34),
    Arrow(((559, 90), (597, 78))), Arrow(((634, 80), (687, 98))),
    Arrow(((559, 195), (587, 204))), Arrow(((624, 204), (687, 186))),
    Words(635, 145, "the same distances and angles"),
])  # fmt: skip

SCHEMES = (760, 220, "Offline: a trained teacher teaches. Online: models that train together teach "
           "each other. Self: deep layers teach shallow ones.", [
    *columns(Offline="the teacher is trained before", Online="both train at once",
             Self="the student is its own teacher"),
    Box(50, 65, "teacher", "Teacher", "frozen, or on disk", 150, 52),
    Box(50, 155, "student", "Student", "", 150, 44), Arrow(((125, 117), (125, 151))),
    Box(305, 65, "student", "Model A", "trains", 150, 52),
    Box(305, 155, "student", "Model B", "trains", 150, 52),
    Arrow(((350, 117), (350, 151))), Arrow(((410, 155), (410, 121))),
    Box(530, 65, "student", "Deep exit", "teaches", 210, 52),
    Box(530, 155, "student", "exit 1", "", 95, 44), Box(645, 155, "student", "exit 2", "", 95, 44),
    Arrow(((577, 117), (577, 151))), Arrow(((692, 117), (692, 151))),
])  # fmt: skip

# From the table of tuned students in `results.md`: mean paired gain over five seeds, with its
# standard error.
GAINS = (760, 250, "Gains over the student alone on the test split of Fashion-MNIST.", [
    Words(20, 24, "Accuracy against the same student alone, in points", 15, "600", "start"),
    Words(20, 44, "Fashion-MNIST, 10,000 images, test split, five paired seeds", anchor="start"),
    Words(20, 82, "48k weights", 13, "600", "start"),
    Gain(66, "keras_distill, tuned", 1.33, 0.13),
    Gain(94, "keras.distillation, best of nine", 0.45, 0.08, "data"),
    Gain(122, "keras.distillation, default", -1.07, 0.24, "data"),
    Words(20, 176, "5k weights", 13, "600", "start"),
    Gain(160, "keras_distill, tuned", 0.65, 0.16),
    Gain(188, "keras.distillation, best of nine", -0.04, 0.09, "data"),
    Gain(216, "keras.distillation, default", -1.15, 0.28, "data"),
])  # fmt: skip

# From the table of the quickstart in `results.md`: mean and standard deviation over three seeds.
QUICKSTART = (760, 190, "The quickstart's report: the distilled student has 97.94% accuracy, the "
              "student alone 97.22%, the teacher 98.50%.", [
    Words(20, 24, "The quickstart's report: handwritten digits, test split, three seeds", 15, "600",
          "start"),
    Words(185, 56, "accuracy, % (from 96.5)", anchor="start"),
    Words(470, 56, "KL divergence from the teacher", anchor="start"),
    *(Words(20, y + 4, what, 13, "600", "start") for y, what in (
        (82, "teacher, 56k weights"), (116, "student alone, 1.4k"), (150, "distilled, 1.4k"))),
    Dot(185, 82, 96.5, 75, 98.50, 0, "teacher", "98.50"),
    Dot(185, 116, 96.5, 75, 97.22, 0.59, "data", "97.22 \u00b1 0.59"),
    Dot(185, 150, 96.5, 75, 97.94, 0.42, "student", "97.94 \u00b1 0.42"),
    Dot(470, 116, 0, 900, 0.1609, 0.0224, "data", "0.161 \u00b1 0.022"),
    Dot(470, 150, 0, 900, 0.0581, 0.0125, "student", "0.058 \u00b1 0.013"),
])  # fmt: skip

PICTURES = {
    "step": STEP, "knowledge": KNOWLEDGE, "schemes": SCHEMES, "gains": GAINS,
    "quickstart": QUICKSTART,
}  # fmt: skip


def drawn(name, theme):
    """The SVG text of a picture in a theme."""
    width, height, title, shapes = PICTURES[name]
    colors = THEMES[theme]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" font-family="{FONT}">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="{colors.line}"/>'
        "</marker></defs>",
        *(part for shape in shapes for part in shape.svg(colors)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def main():
    IMAGES.mkdir(exist_ok=True)
    for name in PICTURES:
        for theme in THEMES:
            (IMAGES / f"{name}-{theme}.svg").write_text(drawn(name, theme), encoding="utf-8")


if __name__ == "__main__":
    main()
