"""The plots of a page: drawings with real text, in the page's colors."""

import contextlib
import html
import io
import itertools
import re
import warnings

from keras_distill.report.page import check_plots

INK, SOFT, LINE = "#1f2937", "#6b7281", "#e5e7ea"
THEMED = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)"}
COLORS = {"teacher": "#7c8494", "alone": "#d97706", "distilled": "#3b82f6"}
OTHERS = ("#059669", "#c026d3", "#dc2626", "#0891b2", "#a16207", "#7c3aed")
WIDTH = 3.6  # inches: a phone's width at about 11 pixels of text

_numbers = itertools.count()


@contextlib.contextmanager
def drawing():
    """Draws within the block with plain text: no formulas, and no outlines of letters."""
    check_plots()
    from matplotlib import rc_context

    settings = {"text.parse_math": False, "svg.fonttype": "none"}
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has other fonts
        yield


def colors(names):
    """Returns a color for each name, the same for the same arm everywhere."""
    others = itertools.cycle(OTHERS)
    return {name: COLORS.get(name) or next(others) for name in names}


def figure(height=2.8, width=WIDTH):
    """Returns a figure and its axes."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    made.patch.set_alpha(0)
    axes = made.subplots()
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(color=LINE, lw=0.6)
    axes.set_axisbelow(True)
    return made, axes


def label(axes, x=None, y=None):
    """Names the axes; the name of the y axis stands above it, so that it takes no width."""
    if x:
        axes.set_xlabel(str(x), fontsize=9.5, color=INK)
    if y:
        axes.set_title(str(y), fontsize=9.5, color=INK, loc="left")


def legend(axes, columns=2):
    """Draws a legend below the plot, where it hides nothing."""
    handles, names = axes.get_legend_handles_labels()
    if not handles:
        return
    names = [short(name, 42) for name in names]
    axes.figure.legend(
        handles,
        names,
        loc="outside lower left",
        ncols=1 if max(map(len, names)) > 20 else columns,
        fontsize=9,
        frameon=False,
        labelcolor=INK,
        handlelength=1.2,
        columnspacing=1,
    )


def short(text, limit=18):
    """Shortens a text to the last `limit` characters, which differ between layers and runs."""
    return text if len(text) <= limit else f"…{text[1 - limit :]}"


def svg(made, title):
    """Returns a figure as an `<svg>` element."""
    from matplotlib import rc_context

    file = io.StringIO()
    salt = f"plot-{next(_numbers)}"
    with rc_context({"svg.hashsalt": salt}):
        made.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for color, variable in THEMED.items():
        text = text.replace(color, variable)
    text = re.sub(r'\bid="', f'id="{salt}-', text)  # the names that a page's drawings refer to
    text = re.sub(r'(href="#|url\(#)', rf"\1{salt}-", text)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>',
                  rf'<svg role="img" aria-label="{html.escape(title)}" viewBox="\1" '
                  'xmlns:xlink="http://www.w3.org/1999/xlink">', text, count=1)  # fmt: skip
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r"(font:[^;\"]*?) ?'[^\"]*?sans-serif", r"\1 system-ui, sans-serif", text)
