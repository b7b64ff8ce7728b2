"""The forward Kullback-Leibler divergence of logits, with its gradient written out.

The gradient with respect to the student's logits is `(p_student - p_teacher) / T`. It takes a
quarter of the operations of automatic differentiation, which matters where there are many classes.
There a new array over all classes costs more than the arithmetic on it. So the operations stand in
an order in which TensorFlow can reuse arrays that nothing else needs.
"""

import math

from keras import backend, ops

from keras_distill.losses.arithmetic import at_least
from keras_distill.losses.softened import (
    FLAT,
    LOWEST,
    expectation,
    forward_kl,
    log_probabilities,
    log_with_tail,
    placed,
)

NEAR = 0.5  # the series covers differences up to this
SERIES = [(-1) ** power / math.factorial(power) for power in range(2, 8)]


def kl_of_logits(y_true, y_pred, temperature, factor):
    """Returns `factor * KL(softmax(y_true / T) || softmax(y_pred / T))` for each example or token.

    Args:
        y_true: the teacher's logits, (batch, ..., classes), taken as constants.
        y_pred: the student's logits, of the same shape.
        temperature: `T`, a number or a scalar.
        factor: a number or a scalar.
    """
    y_true = ops.stop_gradient(y_true)

    @ops.custom_gradient
    def divergence(y_pred):
        log_teacher = log_probabilities(y_true / temperature)
        log_student = log_probabilities(y_pred / temperature)
        p = ops.exp(log_teacher)
        if backend.standardize_dtype(p.dtype) == "float16":  # has no -1e30: 0 * inf would be NaN
            value = expectation(log_teacher, log_teacher - log_student)
        else:
            value = ops.sum(p * (log_teacher - log_student), axis=-1)

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            slope = ops.exp(log_student) - p
            return ops.expand_dims(upstream * factor / temperature, -1) * slope

        return factor * at_least(value, 0.0), gradient

    return divergence(y_pred)


def kl_of_flat_logits(y_true, y_pred, temperature, factor):
    """Returns `kl_of_logits` for a high temperature, at which both sides are near each other.

    With `w = (y_true - y_pred) / T` less its mean over `p_teacher`, the divergence is
    `log(1 + sum_c p_teacher(c) * (exp(-w) - 1 + w))`, a sum of positive terms, and the slope is
    `p_student - p_teacher = p_teacher * (exp(-w) / sum - 1)`. Neither is a difference of numbers
    that are nearly the same. Rows with a class further off than `NEAR` are computed the plain way.
    """
    y_true = ops.stop_gradient(y_true)

    @ops.custom_gradient
    def divergence(y_pred):
        log_teacher = log_probabilities(y_true / temperature)
        log_student = log_probabilities(y_pred / temperature)
        p = ops.exp(log_teacher)
        apart = _apart(y_true, y_pred, temperature, p)
        near = ops.max(ops.abs(apart), axis=-1, keepdims=True) <= NEAR
        apart = ops.where(near, apart, 0.0)
        excess = ops.sum(p * _series(apart), axis=-1, keepdims=True)
        value = ops.where(near[..., 0], ops.log1p(excess[..., 0]),
                          forward_kl(log_teacher, log_student))  # fmt: skip

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            slope = p * (ops.expm1(-apart) - excess) / (1 + excess)
            slope = ops.where(near, slope, ops.exp(log_student) - p)
            return ops.expand_dims(upstream * factor / temperature, -1) * slope

        return factor * value, gradient

    return divergence(y_pred)


def kl_at_any_temperature(y_true, y_pred, temperature, factor):
    """Returns `kl_of_logits` at a temperature that changes; below `FLAT` it takes the cheaper way.

    In JAX a branch cannot hold a gradient of its own, and XLA makes one pass of either way. So JAX
    always computes the way for flat logits, which is right at any temperature.
    """
    if backend.backend() == "jax":
        return kl_of_flat_logits(y_true, y_pred, temperature, factor)
    return ops.cond(
        temperature >= FLAT,
        lambda: kl_of_flat_logits(y_true, y_pred, temperature, factor),
        lambda: kl_of_logits(y_true, y_pred, temperature, factor),
    )


def _apart(y_true, y_pred, temperature, p):
    """Returns the differences of logits divided by the temperature, less their mean over `p`."""
    teacher, student = (at_least(side, LOWEST) for side in (y_true, y_pred))
    apart = (teacher - student) / temperature
    return apart - ops.sum(ops.where(p == 0, 0.0, p * apart), axis=-1, keepdims=True)


def _series(apart):
    """Returns `exp(-apart) - 1 + apart` for values near zero."""
    total = SERIES[-1]
    for factor in SERIES[-2::-1]:
        total = total * apart + factor
    return ops.square(apart) * total


def kl_of_top_k(top, y_pred, temperature, factor):
    """Returns the divergence from the teacher's `TopK`; all other classes count as one.

    The gradient is `(p_student - p_teacher) / T` at the teacher's classes. The other classes share
    the gradient of their sum in proportion to the student's probabilities among them.
    """
    log_teacher = ops.stop_gradient(log_with_tail(top))

    @ops.custom_gradient
    def divergence(y_pred):
        ids = ops.cast(top.ids, "int32")
        kept = at_least(ops.take_along_axis(y_pred, ids, axis=-1) / temperature, LOWEST)
        # LOWEST is put in after the division: XLA's rounding would not undo the division below.
        others = placed(y_pred / temperature, ids, ops.full_like(kept, LOWEST))
        highest = ops.max(others, axis=-1, keepdims=True)
        q = ops.exp(others - highest)  # the only array over all classes that is kept
        total = ops.sum(q, axis=-1, keepdims=True)
        rest = highest + ops.log(total)
        log_student = log_probabilities(ops.concatenate([kept, rest], axis=-1))

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            slope = ops.exp(log_student) - ops.exp(log_teacher)
            slope = ops.expand_dims(upstream * factor / temperature, -1) * slope
            return placed(q * (slope[..., -1:] / total), ids, slope[..., :-1])

        return factor * forward_kl(log_teacher, log_student), gradient

    return divergence(y_pred)
