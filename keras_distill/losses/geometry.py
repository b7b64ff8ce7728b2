"""Pairs of rows of a batch: their products and distances, some anchors at a time."""

import keras
from keras import ops

CHUNK = 64


def products(x):
    """The dot products of all pairs of rows."""
    return ops.matmul(x, ops.transpose(x))


def over_anchors(function, sides, chunk=CHUNK):
    """`function(*sides, *anchors)` of all rows as anchors, at most `chunk` of them at a time.

    `function` gives a row for every anchor. Past `chunk` rows it is computed again for the
    gradient, so that what it needs in between is held for one chunk only.
    """
    size = ops.shape(sides[0])[0]
    if isinstance(size, int) and size <= chunk:
        return function(*sides, *sides)
    number = (size + chunk - 1) // chunk
    padding = [[0, number * chunk - size], [0, 0]]
    anchors = tuple(
        ops.reshape(ops.pad(x, padding), (number, chunk, ops.shape(x)[-1])) for x in sides
    )
    again = keras.remat(function)
    rows = ops.map(lambda some: again(*sides, *some), anchors)
    return ops.reshape(rows, (-1, *ops.shape(rows)[2:]))[:size]


def squared_distances(x):
    """Squared distances of all pairs of rows, from their differences: exact where they are near."""
    return over_anchors(_squares, (x,))


def _squares(x, anchors):
    return ops.sum(ops.square(ops.expand_dims(x, 0) - ops.expand_dims(anchors, 1)), axis=-1)


def pairs(present):
    """1.0 for each pair of two different rows that count: (batch, batch)."""
    different = 1.0 - ops.eye(ops.shape(present)[0], dtype=present.dtype)
    return different * ops.expand_dims(present, 0) * ops.expand_dims(present, 1)


def smooth_l1(difference):
    """Half the square up to one, linear beyond."""
    size = ops.abs(difference)
    return ops.where(size < 1.0, 0.5 * ops.square(difference), size - 0.5)
