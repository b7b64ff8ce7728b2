"""Arithmetic on features: pooling maps to one size, directions and lengths of vectors."""

import math

from keras import ops


def adaptive_average_pool(maps, size):
    """Averages feature maps down to a size that need not divide theirs.

    Cell `i` of `n` averages the rows from `floor(i * rows / n)` up to, but without,
    `ceil((i + 1) * rows / n)`, and the columns likewise.

    Args:
        maps: (batch, height, width, channels).
        size: the new height and width.

    Returns:
        The maps, of shape (batch, *size, channels).
    """
    sizes = ops.shape(maps)[1:3]  # of numbers, where a graph knows them
    rows, columns = (_windows(n, cells, maps.dtype) for n, cells in zip(sizes, size))
    if rows is not None:
        maps = ops.einsum("ih,bhwc->biwc", rows, maps)
    return maps if columns is None else ops.einsum("jw,bhwc->bhjc", columns, maps)


def _windows(length, cells, dtype):
    """Returns the weight of every position in every cell; `None` if each cell is one position."""
    if isinstance(length, int) and isinstance(cells, int) and length == cells:
        return None
    cell, position = ops.arange(cells)[:, None], ops.arange(length)[None, :]
    first, end = cell * length // cells, -(-(cell + 1) * length // cells)
    inside = ops.cast(ops.logical_and(position >= first, position < end), dtype)
    return inside / ops.sum(inside, axis=1, keepdims=True)


def matched(one, other):
    """Pools the larger of two feature maps to the size of the smaller one, and returns both."""
    if None in (*one.shape[1:3], *other.shape[1:3]):  # pooled to its own size a map stays
        sizes = zip(ops.shape(one)[1:3], ops.shape(other)[1:3])
        size = [ops.minimum(*pair) for pair in sizes]
        return adaptive_average_pool(one, size), adaptive_average_pool(other, size)
    if one.shape[1] == other.shape[1]:
        return one, other
    if one.shape[1] > other.shape[1]:
        return adaptive_average_pool(one, other.shape[1:3]), other
    return one, adaptive_average_pool(other, one.shape[1:3])


def nearest(maps, size):
    """Resizes feature maps: row `i` of `n` is their row `floor(i * rows / n)`."""
    for axis, (length, cells) in enumerate(zip(maps.shape[1:3], size), 1):
        if length != cells:
            maps = ops.take(maps, ops.arange(cells) * length // cells, axis=axis)
    return maps


def flat(features):
    """Flattens each example to one vector; sizes may be known at run time only."""
    return ops.reshape(features, (-1, math.prod(ops.shape(features)[1:])))


def unit(vectors, axis=-1):
    """Scales vectors to length one; a vector of zeros and its gradient stay zero."""
    scale = ops.stop_gradient(ops.max(ops.abs(vectors), axis=axis, keepdims=True))
    vectors = vectors / ops.where(scale < 1e-30, 1.0, scale)  # squares stay in range
    square = ops.sum(ops.square(vectors), axis=axis, keepdims=True)
    positive = square > 0.5
    return vectors * ops.where(positive, ops.rsqrt(ops.where(positive, square, 1.0)), 0.0)


def length(vectors, axis=-1):
    """Returns the Euclidean length of vectors; the gradient for a vector of zeros is zero."""
    return root(ops.sum(ops.square(vectors), axis=axis))


def root(square):
    """Returns the square root; where `square` is zero, the root and its gradient are zero."""
    positive = square > 0
    return ops.where(positive, ops.sqrt(ops.where(positive, square, 1.0)), 0.0)


def at_least(values, bound):
    """Returns `max(values, bound)` in the dtype of `values`, which some backends would narrow."""
    return ops.maximum(values, ops.cast(bound, values.dtype))
