"""Finds the layers that a recipe compares, in any model."""

from keras_distill import taps
from keras_distill.recipes.stacks import Block, stacks_of


def match_layers(student, teacher, *, count=None, verbose=True):
    """Pairs layers of student and teacher by kind and depth.

    In a convolutional network it takes the ends of the stages, which are the last layers at each
    size of the feature maps. In a transformer it takes the outputs of the blocks, which it
    recognizes by their attention and feed-forward parts. A stage of the student gets the teacher's
    stage of the same size. If there is none, it gets the stage at the same relative depth, so that
    the last goes with the last. An encoder is matched with an encoder, a decoder with a decoder,
    and a tower of a two-tower model with the same tower.

    Args:
        student: a built model.
        teacher: a built model.
        count: how many pairs to take of each stack of blocks (of encoder and of decoder), the
            deepest first. Defaults to one for every stage or block of the student.
        verbose: whether to print the pairing. Defaults to `True`.

    Returns:
        A list of pairs of paths `(student, teacher)`, from shallow to deep, which you may edit.
        `"block#1"` is the second call of a block that shares its weights, as ALBERT's do.

    Raises:
        ValueError: if the models have no layers of one kind, or different numbers of stacks.

    Example:

    ```python
    pairs = match_layers(student, teacher)
    recipes.tinybert(student, teacher, pairs=pairs[1:])
    ```
    """
    pairs = [pair for pairs in matched(student, teacher, count) for pair in pairs]
    if verbose:
        _show(pairs)
    return [(ours.path, theirs.path) for ours, theirs in pairs]


def matched(student, teacher, count=None, keep=None):
    """Returns pairs of blocks for each pair of stacks: `[[(student's, teacher's)]]`.

    Args:
        student: a built model.
        teacher: a built model.
        count: as in `match_layers`.
        keep: a function of a block that says whether the block counts. If no block of a stack does,
            all of them count.
    """
    ours, theirs = (
        [[*filter(keep, ends)] or ends for ends in _levels(model)] for model in (student, teacher)
    )
    if len(ours) != len(theirs):
        ours, theirs = _flat(ours), _flat(theirs)
    if not ours or [_kind(ends[-1]) for ends in ours] != [_kind(ends[-1]) for ends in theirs]:
        raise ValueError(
            "`match_layers` needs two models with stages of feature maps, or with the same number "
            "of stacks of transformer blocks. Otherwise give pairs of paths. "
            "`keras_distill.taps.shapes(model)` lists them. Received: "
            f"{_told(ours)} (student), {_told(theirs)} (teacher)"
        )
    pairs = [_paired(*ends) for ends in zip(ours, theirs)]
    return [each[-count:] if count else each for each in pairs]


def stages(model):
    """Returns the blocks of a transformer, or the ends of a network's stages, `[(path, shape)]`.

    Args:
        model: a built model.

    Returns:
        A list of paths and shapes, from shallow to deep. A decoder's blocks follow its encoder's.
    """
    return [(end.path, end.shape) for ends in _levels(model) for end in ends]


def embedding(model):
    """Returns the path of the last vector before the head, on which examples are related.

    Args:
        model: a built model.

    Raises:
        ValueError: if the model has no such vector.
    """
    shapes = taps.shapes(model)
    classes = shapes.pop("output")
    vectors = [
        path
        for path, shape in shapes.items()
        if isinstance(shape, tuple)
        and len(shape) == 2
        and shape != classes
        and "Dropout" not in type(taps.find_layer(model, path)).__name__
    ]
    if not isinstance(classes, tuple) or not vectors:
        raise ValueError(
            f"`{model.name}` has no single vector before its output. Name the layer to compare. "
            "`keras_distill.taps.shapes(model)` lists all layers."
        )
    return vectors[-1]


def _levels(model):
    """Returns the blocks of each stack, or the stages, to compare with another model's."""
    if stacks := stacks_of(model):
        return stacks
    shapes = {p: s for p, s in taps.shapes(model).items() if isinstance(s, tuple)}
    ends = _sums(model, shapes) or _last_of_each_size(model, shapes)
    return [ends] if ends else []


def _flat(stacks):
    """Joins stacks into one if they follow each other, as the stages of a Swin transformer do."""
    sizes = [stack[-1].shape[1] for stack in stacks]
    following = all(one and other and one > other for one, other in zip(sizes, sizes[1:]))
    return [[block for stack in stacks for block in stack]] if stacks and following else stacks


def _kind(end):
    """Returns what must be equal: the rank, the side and how many attentions a block has."""
    return len(end.shape), end.side, len(end.attentions) > 1


def _sums(model, shapes):
    """Finds the normalizations that end the blocks in a model without layers for its blocks."""
    normalized = [
        Block(path, shape)
        for path, shape in shapes.items()
        if len(shape) == 3
        and path != "output"
        and "Normalization" in type(taps.find_layer(model, path)).__name__
    ]
    ends = normalized[::-2][::-1]  # two per block; an odd one belongs to the embedding
    return ends[1:] if len(normalized) % 2 else ends


def _last_of_each_size(model, shapes):
    """Returns the last feature map of each height and width, a block rather than a layer in it."""
    ends = {}
    for path, shape in shapes.items():
        if len(shape) == 4 and path != "output" and not _pads(model, path):
            before = ends.get(shape[1:3])
            if before is None or not path.startswith(before.path + "/"):
                ends[shape[1:3]] = Block(path, shape)
    return list(ends.values())


def _pads(model, path):
    """Returns whether a layer pads or crops feature maps, which does not end a stage."""
    return type(taps.find_layer(model, path)).__name__.startswith(("ZeroPadding", "Cropping"))


def _paired(students, teachers):
    by_size = {end.shape[1:-1]: end for end in teachers}
    if len(by_size) == len(teachers) and all(end.shape[1:-1] in by_size for end in students):
        return [(end, by_size[end.shape[1:-1]]) for end in students]
    depths = [(i + 1) * len(teachers) // len(students) for i in range(len(students))]
    return [(end, teachers[max(d, 1) - 1]) for end, d in zip(students, depths)]


def _told(stacks):
    return "; ".join(f"{ends[0].path} to {ends[-1].path}" for ends in stacks) or "none"


def _show(pairs):
    width = max(len(ours.path) for ours, _ in pairs)
    for ours, theirs in pairs:
        print(f"{ours.path:{width}} {ours.shape} <- {theirs.path} {theirs.shape}")
