"""Distillations drawn at random: what they are made of, as values that print whole."""

import dataclasses
import inspect
import itertools

from hypothesis import strategies as st
from loss_families import CLASSES, FAMILIES, family, leaves

from keras_distill import losses, recipes

BUILDS = ("functional", "nested", "shared", "subclassed")
OF_TOKENS = (*BUILDS, "attention", "recurrent")
SOURCES = ("model", "tapped", "cached", "function", "self", "ema")
CONTRACTS = ("order", "padded", "slope")
RARE = 100  # so many cases for each that compiles a step, which takes many seconds
IMAGES = ("cnn", "vit")
OUTPUTS = ("hinton", "dkd", "dist", "standardized", "mlkd")
VECTORS = (*OUTPUTS, "fitnets", "rkd", "sp", "cc", "pkt", "cka", "crd")
MAPS = ("at", "nst", "vid", "mgd", "review_kd", "semckd", "cwd")
BLOCKS = ("tinybert", "pkd", "minilm", "distilbert")
SCHEMES = ("byot", "kdcl", "mutual", "one", "online")


@dataclasses.dataclass(frozen=True)
class Compared:
    """What becomes a term.

    Attributes:
        loss: the name of a loss.
        shape: the number of one of its family's shapes.
        place: "output", or "tap" for layers of those shapes.
        source: one of `SOURCES`, or "ensemble" or "top_k" on outputs.
        weight: "number", "schedule" or "variable".
        projected: whether a projector maps the student's side.
    """

    loss: str
    shape: int = 0
    place: str = "tap"
    source: str = "model"
    weight: str = "number"
    projected: bool = False


@dataclasses.dataclass(frozen=True)
class Case:
    """A student, its teachers, its terms and a batch.

    Attributes:
        seed: of all numbers.
        build: how the student is built.
        tokens: whether inputs are sequences, with a label a token.
        terms: `Compared`s.
        inputs: 1 or 2; the second rides in a dict.
        outputs: "one", "dict" or "list".
        parts: what the student has besides: "dropout", "norm", "l2".
        dtype: "float32", "float64" or "mixed_bfloat16".
        batch: how many examples.
        weights: "none", "examples" or "tokens".
        masks: "input" for a mask among the inputs, "example" for one of whole examples there,
            "keras" for Keras's own.
        alpha: a number, "schedule" or "left out".
        optimizer: "sgd", "momentum", "clipped" or "adam".
        mode: "eager", "graph" or "xla".
        contracts: which of `CONTRACTS`, "alone" and "modes" are checked where they apply.
        recipe: the name of a recipe that gives the terms.
        network: what it compares: "cnn" or "vit".
    """

    seed: int = 0
    build: str = "functional"
    tokens: bool = False
    terms: tuple = ()
    inputs: int = 1
    outputs: str = "one"
    parts: tuple = ()
    dtype: str = "float32"
    batch: int = 4
    weights: str = "none"
    masks: tuple = ()
    alpha: float | str = 0.5
    optimizer: str = "sgd"
    mode: str = "eager"
    contracts: tuple = ()
    recipe: str = ""
    network: str = ""


def exported():
    """`{name: class}` of all losses."""
    found = {name: getattr(losses, name) for name in losses.__all__}
    base = losses.DistillationLoss
    return {n: each for n, each in found.items()
            if inspect.isclass(each) and issubclass(each, base) and each is not base}  # fmt: skip


LOSSES = exported()


def _fits(kind, shape, teacher, tokens, place):
    """Whether a loss compares such shapes where a batch has these labels and masks."""
    loss, parts = kind(**family(kind).arguments), [*leaves(shape), *leaves(teacher)]
    rank = 3 if tokens else 2
    labelled = "labels" in loss.needs
    if family(kind).labels is not None or kind.__name__ == "AlignedSpans":
        return False  # those have labels, or spans, of their own
    if place == "output":
        return shape == teacher and len(shape) == rank and shape[-1] == CLASSES
    if labelled and not (isinstance(shape, tuple) and len(shape) == rank):
        return False
    if not tokens:
        return True
    by_token = {len(part) for part in parts} == {3}
    by_token |= family(kind).tokens and min(len(part) for part in parts) > 2
    return by_token and loss.token_axes == (1,)


def _choices(tokens, place, several):
    """`(name, number of the shape)` of every loss that may stand there."""
    found = []
    for name, kind in LOSSES.items():
        usual = family(kind)
        for index, shape in enumerate(usual.shapes):
            known = name in FAMILIES or kind.example or len(shape) == 2
            whose = several and place == "tap" and "labels" in kind(**usual.arguments).needs
            if known and not whose and _fits(kind, shape, usual.teacher_of(shape), tokens, place):
                found.append((name, index))
    return found


CHOICES = {
    asked: _choices(*asked)
    for asked in itertools.product((False, True), ("output", "tap"), (False, True))
}


def compared(random, tokens, several):
    """A `Compared` for such labels and so many outputs."""
    place = random.choice(("tap", "tap", "output"))
    name, index = random.choice(CHOICES[tokens, place, several])
    shape = family(LOSSES[name]).shapes[index]
    own = family(LOSSES[name]).teacher_of(shape) == shape
    sources = [*SOURCES]
    if place == "output":
        sources += ["ensemble"] + ["top_k"] * bool(LOSSES[name].takes_top_k)
    projected = place == "tap" and own and isinstance(shape, tuple) and len(shape) in (2, 3)
    return Compared(
        name, index, place, random.choice(sources),
        random.choice(("number", "schedule", "variable")),
        projected and random.choice((False, True)),
    )  # fmt: skip


def network(random):
    """A `Case` of any student, any losses."""
    tokens = random.choice((False, True))
    outputs = random.choice(("one", "one", "dict", "list"))
    count = random.choice((1, 1, 2, 2, 3))
    terms = [compared(random, tokens, outputs != "one") for _ in range(count)]
    masks = some(random, ("input", "keras", "example") if tokens else ("example",))
    dtype = random.choice(("float32", "float32", "float64", "mixed_bfloat16"))
    parts, optimizers = ("dropout", "norm", "l2"), ("sgd", "momentum", "adam", "clipped")
    if dtype == "float64":  # Keras itself neither adds up nor clips what is of two dtypes
        parts, optimizers = parts[:2], optimizers[:3]
    return Case(
        tokens=tokens, terms=tuple(terms), outputs=outputs, masks=masks, dtype=dtype,
        build=random.choice(OF_TOKENS if tokens else BUILDS),
        inputs=random.choice((1, 1, 2)),
        weights=random.choice(("none", "tokens") if tokens else ("none", "examples")),
        parts=some(random, parts) if random.random() < 0.5 else (),
        optimizer=random.choice(optimizers),
        **settings(random),
    )  # fmt: skip


def published(random):
    """A `Case` of a recipe."""
    network = random.choice(("cnn", "cnn", "vit"))
    of = {"cnn": (*VECTORS, *MAPS, *SCHEMES), "vit": (*VECTORS, *BLOCKS)}[network]
    return Case(recipe=random.choice(of), network=network, optimizer="clipped",
                weights=random.choice(("none", "examples")), **settings(random))  # fmt: skip


def settings(random):
    """What any `Case` has."""
    rare = lambda: random.randrange(RARE) == 0  # noqa: E731
    contracts = random.sample(CONTRACTS, random.choice((1, 1, 2)))
    alone = ["alone"] if random.randrange(8) == 0 else []  # two whole `fit`s
    return {
        "seed": random.randrange(2**16),
        "batch": random.randrange(1, 7),
        "alpha": random.choice((0.5, 0.3, 1.0, "schedule", "left out")),
        "mode": random.choice(("graph", "xla")) if rare() else "eager",
        "contracts": (*contracts, *alone, *(["modes"] if rare() else [])),
    }


def some(random, names):
    """Some of the names, or none, in their order."""
    return tuple(name for name in names if random.random() < 0.4)


@st.composite
def cases(draw):
    """Any `Case`.

    One number decides all of it: where each choice is Hypothesis's own, it mostly varies a few
    cases, and few of 2,000 are unlike the others.
    """
    random = draw(st.randoms(use_true_random=True))
    return published(random) if random.randrange(6) == 0 else network(random)


def unknown_recipes():
    """Recipes that no case draws: those of texts, whose models are large, aside."""
    drawn = {*VECTORS, *MAPS, *BLOCKS, *SCHEMES}
    return {*recipes.recipe.FROZEN, *recipes.recipe.TOGETHER} - drawn - {"uld"}
