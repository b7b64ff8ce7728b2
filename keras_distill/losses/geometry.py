"""Pairs and triples of rows of a batch: their products, distances and angles."""

import keras
from keras import ops

from keras_distill.losses import masks

ROUNDING = 2e-7
CHUNK = 64  # how many anchors' differences from all rows are in memory at a time


def products(x):
    """Returns the dot products of all pairs of rows."""
    return ops.matmul(x, ops.transpose(x))


def over_anchors(function, sides, chunk):
    """Returns `function(*sides, *anchors)` for all rows as anchors, at most `chunk` at a time.

    `sides` and the result of `function` are matrices with a row for every anchor. With more than
    `chunk` rows `function` runs again for the gradient, so that its intermediate values take the
    memory of one chunk only.
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


def centred(x, present):
    """Returns rows less the mean of those that count: this keeps digits and changes no distance."""
    count = masks.at_least_one(ops.sum(present))
    return x - ops.sum(x * ops.expand_dims(present, -1), axis=0) / count


def squared_distances(x, present):
    """Returns squared distances of all pairs, from dot products of the rows less their mean.

    `d^2(i, j) = <x_i, x_i> + <x_j, x_j> - 2 <x_i, x_j>` needs no array of (batch, batch, width).
    Results below the rounding error, some `2e-7` of the squared lengths, count as zero. GPUs and
    TPUs round the factors of a product to 11 bits or fewer, too few for a difference of products.
    There the function sums the squares of differences.
    """
    if not products_are_exact():
        return over_anchors(_squares_of_differences, [x], CHUNK)
    gram = products(centred(x, present))
    lengths = ops.diagonal(gram)
    lengths = ops.expand_dims(lengths, 0) + ops.expand_dims(lengths, 1)
    square = lengths - 2.0 * gram
    return ops.where(square > ROUNDING * lengths, square, 0.0)


def _squares_of_differences(x, anchors):
    difference = ops.expand_dims(anchors, 1) - ops.expand_dims(x, 0)
    return ops.sum(ops.square(difference), axis=-1)


def products_are_exact():
    """Returns whether products of float32 are float32, as on CPUs and by default in PyTorch."""
    if keras.backend.backend() == "torch":
        return True
    return all(device.startswith("cpu") for device in keras.distribution.list_devices())


def pairs(present):
    """Returns 1.0 for each pair of two different rows that count: (batch, batch)."""
    different = 1.0 - ops.eye(ops.shape(present)[0], dtype=present.dtype)
    return different * ops.expand_dims(present, 0) * ops.expand_dims(present, 1)


def smooth_l1(difference):
    """Returns half the square up to one, and a linear function beyond."""
    size = ops.abs(difference)
    return ops.where(size < 1.0, 0.5 * ops.square(difference), size - 0.5)
