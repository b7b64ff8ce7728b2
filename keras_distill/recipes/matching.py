"""Finds the layers that a recipe compares, in models that it has never seen."""

import collections

from keras_distill import taps


def match_layers(student, teacher, *, count=None, verbose=True):
    """Pairs layers of student and teacher by kind and depth.

    Of a convolutional network these are the ends of its stages, the last layer at each size of the
    feature maps; of a transformer the outputs of its blocks. A stage of the student goes with the
    teacher's stage of the same size, or else with the one at the same relative depth, so that the
    last goes with the last.

    Args:
        student: a built model.
        teacher: a built model.
        count: how many pairs, the deepest; by default one for every stage of the student.
        verbose: whether to print the pairing.

    Returns:
        A list of pairs of paths `(student, teacher)`, from shallow to deep, to be edited at will.

    Raises:
        ValueError: where the models have no layers of one kind.
    """
    found = {"student": stages(student), "teacher": stages(teacher)}
    ranks = {len(shape) for _, shape in found["student"]}
    if not ranks or ranks != {len(shape) for _, shape in found["teacher"]}:
        raise ValueError(
            "`match_layers` found no layers of one kind: stages of feature maps or blocks of a "
            f"transformer on both sides. Received: {found}. Give the pairs of paths yourself; "
            "`keras_distill.taps.shapes(model)` lists them."
        )
    pairs = _paired(found["student"], found["teacher"])
    pairs = pairs[-count:] if count else pairs
    if verbose:
        _show(pairs, dict(found["student"]), dict(found["teacher"]))
    return pairs


def stages(model):
    """`[(path, shape)]` of the blocks of a transformer, or of the ends of a network's stages."""
    shapes = {p: s for p, s in taps.shapes(model).items() if isinstance(s, tuple)}
    return _blocks(model, shapes) or _last_of_each_size(shapes)


def embedding(model):
    """The path of the last vector before the head: what relations between examples compare."""
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
            f"`{model.name}` has no single vector before its output. Name the layer to compare; "
            "`keras_distill.taps.shapes(model)` lists them."
        )
    return vectors[-1]


def _blocks(model, shapes):
    """Layers made of layers that stand several times at one level and give sequences."""
    kinds = collections.defaultdict(list)
    for path, shape in shapes.items():
        if len(shape) == 3 and path != "output":
            layer = taps.find_layer(model, path)
            if layer._flatten_layers(include_self=False, recursive=False):
                kinds[path.rpartition("/")[0], type(layer)].append((path, shape))
    repeated = [blocks for blocks in kinds.values() if len(blocks) > 1]
    return max(repeated, key=len) if repeated else _sums(model, shapes)


def _sums(model, shapes):
    """Of a transformer written out layer by layer: the normalization that ends each block."""
    normalized = [
        (path, shape)
        for path, shape in shapes.items()
        if len(shape) == 3
        and path != "output"
        and "Normalization" in type(taps.find_layer(model, path)).__name__
    ]
    ends = normalized[::-2][::-1]  # two in a block; an odd one belongs to the embedding
    return ends[1:] if len(normalized) % 2 else ends


def _last_of_each_size(shapes):
    """The last feature map of each height and width; a block rather than a layer inside it."""
    ends = {}
    for path, shape in shapes.items():
        if len(shape) == 4 and path != "output":
            before = ends.get(shape[1:3])
            if before is None or not path.startswith(before[0] + "/"):
                ends[shape[1:3]] = path, shape
    return list(ends.values())


def _paired(students, teachers):
    by_size = {shape[1:-1]: path for path, shape in teachers}
    if len(by_size) == len(teachers) and all(shape[1:-1] in by_size for _, shape in students):
        return [(path, by_size[shape[1:-1]]) for path, shape in students]
    depths = [(i + 1) * len(teachers) // len(students) for i in range(len(students))]
    return [(path, teachers[max(d, 1) - 1][0]) for (path, _), d in zip(students, depths)]


def _show(pairs, students, teachers):
    width = max(len(path) for path, _ in pairs)
    for ours, theirs in pairs:
        print(f"{ours:{width}} {students[ours]} <- {theirs} {teachers[theirs]}")
