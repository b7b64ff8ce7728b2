"""The weights of examples and tokens: sample weights, masks in the batch and Keras's own masks."""

import numpy as np
from keras import ops, tree

from keras_distill import taps
from keras_distill._backend import is_symbolic
from keras_distill._keras.layers import mask_of

KNOWN = ("sample_weight", "input")
EXAMPLE, LAST = "example:", "last:"  # how a mask of other tokens than the term's counts


def checked(mask):
    """Returns the names of a term's masks, a tuple."""
    masks = (mask,) if isinstance(mask, str) else mask or ()
    if not isinstance(masks, (list, tuple)) or not all(
        isinstance(name, str) and _parts(name)[1].partition(":")[0] in KNOWN for name in masks
    ):
        raise ValueError(
            '`mask` must be "sample_weight", "sample_weight:KEY", "input:KEY", one of these after '
            f'"{EXAMPLE}" or "{LAST}", a tuple of these or `None`. Received: mask={mask!r}'
        )
    return tuple(masks)


def _parts(mask):
    """Splits a mask's name into how it counts, `EXAMPLE`, `LAST` or `""`, and the name itself."""
    how = next((how for how in (EXAMPLE, LAST) if mask.startswith(how)), "")
    return how, mask.removeprefix(how)


def product(masks, student, y_pred, batch, name, token_axis=1):
    """Returns the product of all masks of a term, (batch,) or (batch, tokens), or `None`.

    Args:
        masks: names, as in `Term`.
        student: the term's path or paths in the student.
        y_pred: the value there. Its own Keras mask is included.
        batch: the `Batch`.
        name: the name of the term, for error messages.
        token_axis: the axis of `y_pred` along which its tokens run.
    """
    shown = tree.flatten(y_pred)[0]
    own = mask_of(shown)
    found = []
    for mask in masks:
        how, mask = _parts(mask)
        found.append(_counted(_named(mask, student, batch, name), how, shown, token_axis))
    found = [ops.cast(mask, "float32") for mask in (*found, own) if mask is not None]
    rank = max((len(mask.shape) for mask in found), default=0)
    together = None
    for mask in found:
        mask = expanded(mask, rank)
        together = mask if together is None else together * mask
    return together


def part(value, student):
    """Returns the part of labels or weights that belongs to the output of the path `student`."""
    if isinstance(value, (list, tuple)):
        value = {str(index): item for index, item in enumerate(value)}
    key = student.partition(":")[2] if isinstance(student, str) else ""
    return value[key] if isinstance(value, dict) and key in value else value


def beside(supervision, sample_weight):
    """Returns weights for `fit` in the structure of `Supervision`, as Keras requires for arrays.

    Args:
        supervision: the `Supervision` that stands for `y`.
        sample_weight: the weights of its labels: an array, a structure of arrays, or `None`.
    """
    several = tree.is_nested(supervision.labels) and tree.is_nested(sample_weight)
    if not several and np.ndim(sample_weight) < 2:
        return sample_weight  # Keras copies weights of examples to all parts of `y`
    first = tree.flatten(sample_weight)[0]
    copied = tree.map_structure(lambda _: first, supervision)
    return copied._replace(labels=sample_weight) if several else copied


def by_class(labels, class_weight):
    """Returns the weight of each example by its class, (batch,), as Keras's `class_weight` does.

    Args:
        labels: class ids, (batch,) or (batch, 1), or one-hot rows, (batch, classes).
        class_weight: `{class id: weight}`. A class that is not in it weighs 1.

    Raises:
        ValueError: if labels belong to several outputs, or keys are no class ids.
    """
    if labels is None or tree.is_nested(labels):
        raise ValueError(
            "`class_weight` needs the labels of one output. Received: "
            f"{'no labels' if labels is None else 'labels of several outputs'}. "
            "Give `sample_weight` instead."
        )
    wrong = [key for key in class_weight if not isinstance(key, (int, np.integer)) or key < 0]
    if wrong:
        raise ValueError(
            f"The keys of `class_weight` must be class ids, integers from 0. Received: {wrong}"
        )
    table = np.ones(max(class_weight, default=0) + 2, "float32")  # the last: no weight given
    for key, weight in class_weight.items():
        table[key] = weight
    labels = ops.convert_to_tensor(labels)
    if len(labels.shape) > 1 and labels.shape[-1] != 1:
        labels = ops.argmax(labels, axis=-1)
    ids = ops.reshape(ops.cast(labels, "int32"), (-1,))
    return ops.take(ops.convert_to_tensor(table), ops.clip(ids, 0, len(table) - 1), axis=0)


def _counted(weights, how, shown, token_axis):
    """Turns weights of other tokens into weights of examples, or of the term's last tokens."""
    if weights is None or len(weights.shape) < 2 or not how:
        return weights
    if how == EXAMPLE:
        return ops.max(weights, axis=list(range(1, len(weights.shape))))
    before = ops.shape(shown)[token_axis] - ops.shape(weights)[1]
    return ops.pad(weights, [[0, 0], [before, 0]])


def _named(mask, student, batch, name):
    if mask == "sample_weight":
        weights = _only(part(batch.sample_weight, student), name)
    elif mask.startswith("sample_weight:"):
        weights = taps.pick(mask, {"sample_weight": batch.sample_weight})
    else:
        weights = taps.pick(mask, {"input": batch.x})
    if weights is not None and len(weights.shape) > 1 and weights.shape[-1] == 1:
        weights = ops.squeeze(weights, -1)
    return weights


def _only(weights, name):
    """Returns one of the weights that Keras copied to every output, if they are equal."""
    first, *others = tree.flatten(weights)
    for other in others if first is not None and not is_symbolic(first) else ():
        if first.shape != other.shape or not bool(ops.all(first == other)):
            raise ValueError(
                f"`{name}`: the outputs have different sample weights, and this term reads a "
                "hidden layer, so it cannot choose one. Name the output with "
                '`mask="sample_weight:KEY"`, or give `mask=None`.'
            )
    return first


def expanded(weights, rank):
    """Returns `weights` with further axes of size one at the end."""
    while len(weights.shape) < rank:
        weights = ops.expand_dims(weights, -1)
    return weights


def aligned(weights, values, name):
    """Returns `weights` in the shape of `values`."""
    while len(weights.shape) > len(values.shape) and weights.shape[-1] == 1:
        weights = ops.squeeze(weights, -1)
    rank = min(len(weights.shape), len(values.shape))
    sizes = zip(weights.shape[:rank], values.shape[:rank])
    fits = all(w is None or v is None or w in (1, v) for w, v in sizes)
    if len(weights.shape) > len(values.shape) or not fits:
        raise ValueError(
            f"The weights of `{name}` have the shape {tuple(weights.shape)}, which does not fit "
            f"the loss's values of shape {tuple(values.shape)}. Give another `mask`, or "
            "`mask=None`."
        )
    return ops.cast(expanded(weights, len(values.shape)), values.dtype) * ops.ones_like(values)


def silence(tensor, weights, token_axes):
    """Sets examples and tokens without weight to zero, along each of the axes of tokens."""
    if not ops.is_tensor(tensor):
        return tensor
    shape, rank = tensor.shape, len(weights.shape)
    if rank == 2 and token_axes != (1,):
        for axis in token_axes:
            size = [-1] + [1] * (len(shape) - 1)
            size[axis] = weights.shape[1] or ops.shape(weights)[1]
            counts = ops.reshape(weights, size) > 0
            tensor = ops.where(counts, tensor, ops.zeros_like(tensor))
        return tensor
    if rank > len(shape) or not fits(shape[:rank], weights.shape):
        return tensor
    return ops.where(expanded(weights, len(shape)) > 0, tensor, ops.zeros_like(tensor))


def fits(these, those):
    """Returns whether two shapes are equal as far as they are known; `None` fits any size."""
    pairs = list(zip(tuple(these), tuple(those)))
    return len(tuple(these)) == len(tuple(those)) and all(
        a is None or b is None or a == b for a, b in pairs
    )
