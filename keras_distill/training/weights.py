"""What weighs examples and tokens: sample weights, masks in the batch and Keras's own masks."""

from keras import tree

from keras_distill import taps

import tensorflow as tf  # isort: skip: after the check of the backend in `taps`


def checked(mask):
    """The names of a term's masks, a tuple."""
    masks = (mask,) if isinstance(mask, str) else mask or ()
    known = ("sample_weight", "input")
    if not isinstance(masks, (list, tuple)) or not all(
        isinstance(name, str) and name.partition(":")[0] in known for name in masks
    ):
        raise ValueError(
            '`mask` must be "sample_weight", "sample_weight:KEY", "input:KEY", a tuple of these '
            f"or `None`. Received: mask={mask!r}"
        )
    return tuple(masks)


def product(masks, student, y_pred, batch, name):
    """The product of all masks of a term, (batch,) or (batch, tokens), or `None`.

    Args:
        masks: names, as in `Term`.
        student: the term's path or paths in the student.
        y_pred: what is there; its own Keras mask joins.
        batch: the `Batch`.
        name: what an error calls the term.
    """
    own = getattr(tree.flatten(y_pred)[0], "_keras_mask", None)
    found = [_named(mask, student, batch, name) for mask in masks]
    found = [mask for mask in (*found, own) if mask is not None]
    rank = max((mask.shape.rank for mask in found), default=0)
    together = None
    for mask in found:
        mask = expanded(tf.cast(mask, "float32"), rank)
        together = mask if together is None else together * mask
    return together


def part(value, student):
    """The part of labels or weights of each output that belongs to the path `student`."""
    if isinstance(value, (list, tuple)):
        value = {str(index): item for index, item in enumerate(value)}
    key = student.partition(":")[2] if isinstance(student, str) else ""
    return value[key] if isinstance(value, dict) and key in value else value


def _named(mask, student, batch, name):
    if mask == "sample_weight":
        weights = _only(part(batch.sample_weight, student), name)
    elif mask.startswith("sample_weight:"):
        weights = taps.pick(mask, {"sample_weight": batch.sample_weight})
    else:
        weights = taps.pick(mask, {"input": batch.x})
    if weights is not None and weights.shape.rank > 1 and weights.shape[-1] == 1:
        weights = tf.squeeze(weights, -1)
    return weights


def _only(weights, name):
    """Any of the weights that Keras copied to every output: a first batch shows if they differ."""
    first, *others = tree.flatten(weights)
    for other in others if first is not None and not tf.is_symbolic_tensor(first) else ():
        if first.shape != other.shape or not bool(tf.reduce_all(first == other)):
            raise ValueError(
                f"`{name}`: sample weights differ between outputs, and this term looks at none of "
                'them. Name the one that counts, `mask="sample_weight:KEY"`, or `mask=None`.'
            )
    return first


def expanded(weights, rank):
    """`weights` with axes of size one at the end."""
    missing = rank - weights.shape.rank
    if missing <= 0:
        return weights
    return tf.reshape(weights, tf.concat([tf.shape(weights), [1] * missing], 0))


def aligned(weights, values, name):
    """`weights` in the shape of `values`."""
    while weights.shape.rank > values.shape.rank and weights.shape[-1] == 1:
        weights = tf.squeeze(weights, -1)
    rank = min(weights.shape.rank, values.shape.rank)
    sizes = zip(weights.shape[:rank], values.shape[:rank])
    fits = all(w is None or v is None or w in (1, v) for w, v in sizes)
    if weights.shape.rank > values.shape.rank or not fits:
        raise ValueError(
            f"`{name}`: weights of shape {tuple(weights.shape)} do not fit values of shape "
            f"{tuple(values.shape)}. Name another `mask`, or `mask=None`."
        )
    return tf.cast(expanded(weights, values.shape.rank), values.dtype) * tf.ones_like(values)


def silence(tensor, weights, token_axes):
    """Zeros where an example or token does not count, along each of the axes of tokens."""
    if not tf.is_tensor(tensor):
        return tensor
    shape, rank = tensor.shape, weights.shape.rank
    if rank == 2 and token_axes != (1,):
        size = [-1, *[1] * (shape.rank - 1)]
        for axis in token_axes:
            size[axis] = weights.shape[1] or tf.shape(weights)[1]
            tensor = tf.where(tf.reshape(weights, size) > 0, tensor, tf.zeros_like(tensor))
            size[axis] = 1
        return tensor
    if rank > shape.rank or not shape[:rank].is_compatible_with(weights.shape):
        return tensor
    return tf.where(expanded(weights, shape.rank) > 0, tensor, tf.zeros_like(tensor))
