"""The base of losses on softened outputs: temperatures and log-probabilities that stay finite."""

import math

from keras import ops

from keras_distill.batch import TopK
from keras_distill.losses.arithmetic import at_least
from keras_distill.losses.distillation_loss import DistillationLoss
from keras_distill.schedules import Hyperparameter, check, is_number, value_at

LOWEST = -1e30  # stands for the log of zero: a padded vocabulary's logits are -inf
FLAT = 8.0  # from this temperature on, float32's rounding times `T^2` may show in a divergence


class SoftenedLoss(DistillationLoss):
    """A loss on logits that are divided by a temperature first.

    The temperature is one for all examples, or one for each. For the latter, give a path such as
    `"input:temperature"` or a layer of the student. The `Term` reads it there, and its gradient
    flows into that layer. `call` takes such a temperature as `temperature=`, of shape (batch,),
    (batch, 1) or (batch, tokens). A value that is not positive makes the loss NaN.

    A subclass divides with `scaled(logits, self.temperature_now(y_pred, temperature))`. It takes
    `self.kl(log_p, log_q)` for a sum of `p * log(p / q)` that keeps its digits at any temperature.

    Args:
        temperature: `T`, positive: a number, a schedule, a `keras.Variable` or a path. Defaults
            to `1.0`.
        **kwargs: as in `DistillationLoss`.
    """

    config = ("temperature",)
    expects_logits = True

    def __init__(self, temperature: Hyperparameter | str = 1.0, **kwargs):
        super().__init__(**kwargs)
        if isinstance(temperature, str):
            self.reads = {"temperature": temperature}
        else:
            check("temperature", temperature, low=0, strict=True)
        self.temperature = temperature
        small = is_number(temperature) and temperature < FLAT
        self.kl = forward_kl if small else flat_kl

    def temperature_now(self, like, temperature=None):
        """Returns the temperature at this step, in the dtype of `like`.

        Args:
            like: the logits, (batch, ..., classes).
            temperature: what `call` was given as `temperature`.

        Returns:
            A scalar, or one temperature for each example or token: (batch, ...), as `like` without
            its axis of classes. An axis may be 1.
        """
        if temperature is not None:
            return _for_each(ops.cast(temperature, like.dtype), len(like.shape) - 1)
        if self.reads:
            raise ValueError(
                f"`{self.name}` needs the value of its temperature `{self.temperature}`. Call it "
                "with `temperature=...`, as a `Term` does. Received: temperature=None"
            )
        return ops.cast(value_at(self.temperature), like.dtype)


def _for_each(temperature, rank):
    """Returns one temperature for each example or token; NaN if it is not positive."""
    if len(temperature.shape) == rank + 1 and temperature.shape[-1] == 1:
        temperature = ops.squeeze(temperature, axis=-1)
    while 0 < len(temperature.shape) < rank:
        temperature = ops.expand_dims(temperature, axis=-1)
    return ops.where(temperature > 0, temperature, float("nan"))


def scaled(logits, temperature):
    """Divides logits (batch, ..., classes) by a temperature, a scalar or (batch, ...)."""
    one_for_all = len(temperature.shape) == 0
    return logits / (temperature if one_for_all else ops.expand_dims(temperature, axis=-1))


class Divergence(SoftenedLoss):
    """A divergence between softened distributions over classes, or over a `TopK` and its rest.

    A subclass writes `divergence(log_teacher, log_student)`, which sums over the last axis.

    Args:
        temperature: as in `SoftenedLoss`. Defaults to `1.0`.
        compensate: whether to multiply by `T^2`, which keeps the gradient's size when `T`
            changes. Defaults to `True`.
        **kwargs: as in `keras.losses.Loss`.
    """

    config = ("compensate",)
    takes_top_k = True

    def __init__(
        self, temperature: Hyperparameter | str = 1.0, compensate: bool = True, **kwargs
    ):
        super().__init__(temperature, **kwargs)
        self.compensate = compensate

    def call(self, y_true, y_pred, temperature=None):
        temperature = self.temperature_now(y_pred, temperature)
        log_student = log_probabilities(scaled(y_pred, temperature))
        if isinstance(y_true, TopK):
            self._check_temperature(y_true)
            log_teacher, log_student = with_rest(y_true, log_student)
        else:
            log_teacher = log_probabilities(scaled(y_true, temperature))
        value = self.divergence(log_teacher, log_student)
        return temperature**2 * value if self.compensate else value

    def _check_temperature(self, top):
        known = is_number(self.temperature)
        same = known and math.isclose(top.temperature, self.temperature, rel_tol=1e-6)
        if is_number(top.temperature) and not same:
            raise ValueError(
                f"`{self.name}` must have the `temperature` of the teacher's `TopK`. Received: "
                f"temperature={self.temperature}, `TopK` at {top.temperature}"
            )


def log_probabilities(logits):
    """Returns the log-softmax over the last axis, at least -1e30."""
    return at_least(ops.log_softmax(logits, axis=-1), LOWEST)


def expectation(log_p, values):
    """Returns the sum of `p * values` over the last axis, 0 where `p` is 0."""
    p = ops.exp(log_p)
    return ops.sum(ops.where(p == 0, 0.0, p * values), axis=-1)


def forward_kl(log_p, log_q, allowed=None):
    """Returns the sum of `p * log(p / q)`, over the `allowed` classes if these are given."""
    ratio = log_p - log_q
    return expectation(log_p, ratio if allowed is None else ops.where(allowed, ratio, 0.0))


def flat_kl(log_p, log_q, allowed=None):
    """Returns `forward_kl` for distributions that are nearly the same, as at a high temperature.

    It sums `p * log(p / q) + q - p`, which has the same sum over all classes. No part is negative,
    while the parts of `forward_kl` have both signs and nearly cancel.
    `q - p = p * expm1(log(q / p))` keeps the digits of the difference.
    """
    p, q, ratio = ops.exp(log_p), ops.exp(log_q), log_q - log_p
    near = p * (ops.expm1(ops.minimum(ratio, ops.cast(1.0, ratio.dtype))) - ratio)
    parts = ops.where(ratio < 1.0, near, q - ops.where(p == 0, 0.0, p * (ratio + 1.0)))
    if allowed is not None:  # add `q - p` of the other classes, which have no `q`
        parts = ops.where(allowed, parts, -p)
    return ops.sum(parts, axis=-1)


def log_mixture(log_p, log_q, weight):
    """Returns the log of `weight * p + (1 - weight) * q`, for a weight in (0, 1)."""
    highest = ops.stop_gradient(ops.maximum(log_p, log_q))
    p, q = ops.exp(log_p - highest), ops.exp(log_q - highest)
    return highest + ops.log(weight * p + (1 - weight) * q)


def with_rest(top, log_student):
    """Returns both sides' log-probabilities of the teacher's `k` classes and, last, of all others.

    Args:
        top: the teacher's `TopK`.
        log_student: the student's log-probabilities of all classes, (batch, ..., classes).

    Returns:
        The teacher's and the student's log-probabilities, each (batch, ..., k + 1).
    """
    ids = ops.cast(top.ids, "int32")
    kept = ops.take_along_axis(log_student, ids, axis=-1)
    others = placed(log_student, ids, ops.full_like(kept, LOWEST))
    rest = ops.logsumexp(others, axis=-1, keepdims=True)
    student = ops.concatenate([kept, rest], axis=-1)
    return log_with_tail(top), at_least(student, LOWEST)


def log_with_tail(top):
    """Returns log-probabilities of a `TopK`'s classes and, last, of all others: (..., k + 1)."""
    tail = ops.expand_dims(top.log_tail, -1)
    return at_least(ops.concatenate([top.log_probs, tail], axis=-1), LOWEST)


def placed(values, ids, others):
    """Returns `values`, (..., classes), with `others` at `ids`, (..., k), of the last axis."""
    rows = ops.reshape(values, (-1, values.shape[-1]))
    ids = ops.reshape(ids, (-1, ids.shape[-1]))
    row = ops.broadcast_to(ops.expand_dims(ops.arange(ops.shape(ids)[0]), -1), ops.shape(ids))
    places = ops.reshape(ops.stack([row, ids], axis=-1), (-1, 2))
    return ops.reshape(ops.scatter_update(rows, places, ops.reshape(others, (-1,))),
                       ops.shape(values))  # fmt: skip
