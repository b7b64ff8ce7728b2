"""Rows of a batch: which count, their directions and distances. Finite, and so are gradients."""

import math

import keras
from keras import ops

CHUNK = 64


def flat(x):
    """(batch, ...) as (batch, width)."""
    return ops.reshape(x, (-1, math.prod(ops.shape(x)[1:])))


def counted(mask, x):
    """1.0 for each row of `x` that counts and 0.0 for others: (batch,)."""
    if mask is None:
        return ops.ones(ops.shape(x)[:1], x.dtype)
    return ops.cast(ops.any(mask > 0, axis=tuple(range(1, len(mask.shape)))), x.dtype)


def at_least_one(count):
    """A number to divide by."""
    return ops.maximum(count, 1.0)


def unit(x, epsilon=1e-12):
    """Directions along the last axis; zero, with no gradient, where the length is zero."""
    square = ops.sum(ops.square(x), axis=-1, keepdims=True)
    there = square > epsilon**2
    return ops.where(there, x * ops.rsqrt(ops.where(there, square, 1.0)), 0.0)


def root(square):
    """The square root; zero, with no gradient, where `square` is zero."""
    there = square > 0
    return ops.where(there, ops.sqrt(ops.where(there, square, 1.0)), 0.0)


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
