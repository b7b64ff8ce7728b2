"""Turns a mask into the examples, tokens and positions that count, for losses."""

from keras import ops

from keras_distill.losses.arithmetic import at_least


def examples(mask, like):
    """Returns 1.0 for each example that counts or has a token that counts: (batch,)."""
    if mask is None:
        return ops.ones(ops.shape(like)[:1], like.dtype)
    axes = tuple(range(1, len(mask.shape)))
    return ops.cast(ops.any(mask > 0, axis=axes), like.dtype)


def positions(mask, like):
    """Returns 1.0 for each vector along the last axis of `like` that counts: (batch, ...)."""
    ones = ops.ones_like(like[..., 0])
    if mask is None:
        return ones
    while len(mask.shape) < len(ones.shape):
        mask = ops.expand_dims(mask, -1)
    return ones * ops.cast(mask > 0, ones.dtype)


def tokens(mask, like):
    """Returns 1.0 for each token that counts, (batch, tokens), or `None` if there is no such mask.

    The values have the dtype of `like`.
    """
    if mask is None or len(mask.shape) < 2:
        return None
    return ops.cast(mask > 0, like.dtype)


def mean_over_tokens(values, mask):
    """Returns the mean of (batch, ..., tokens) over the tokens that count: (batch, ...)."""
    real = tokens(mask, values)
    if real is None:
        return ops.mean(values, axis=-1)
    for _ in range(len(values.shape) - 2):
        real = real[:, None]
    return ops.sum(values * real, axis=-1) / at_least_one(ops.sum(real, axis=-1))


def at_least_one(count):
    """Returns a count that may stand in a denominator."""
    return at_least(count, 1.0)
