"""What losses on softened outputs share: a temperature, and log-probabilities that stay finite."""

import math

from keras import ops

from keras_distill.batch import TopK
from keras_distill.losses.distillation_loss import DistillationLoss
from keras_distill.schedules import check, is_number, value_at

LOWEST = -1e30  # the log of no probability: a padded vocabulary's logits are -inf


class SoftenedLoss(DistillationLoss):
    """A loss on logits that are divided by a temperature first.

    Args:
        temperature: positive: a number, a schedule or a `keras.Variable`. Defaults to `1.0`.
        **kwargs: as in `keras.losses.Loss`.
    """

    config = ("temperature",)
    expects_logits = True

    def __init__(self, temperature=1.0, **kwargs):
        super().__init__(**kwargs)
        self.temperature = check("temperature", temperature, low=0, strict=True)

    def temperature_now(self, like):
        """The temperature at this step, in the dtype of `like`."""
        return ops.cast(value_at(self.temperature), like.dtype)


class Divergence(SoftenedLoss):
    """A divergence between softened distributions, of classes or of a `TopK` and its rest.

    A subclass writes `divergence(log_teacher, log_student)`, which sums over the last axis.

    Args:
        temperature: `T`, positive: a number, a schedule or a `keras.Variable`. Defaults to `1.0`.
        compensate: whether to multiply by `T^2`, which keeps the gradient's size when `T`
            changes. Defaults to `True`.
        **kwargs: as in `keras.losses.Loss`.
    """

    config = ("compensate",)
    takes_top_k = True

    def __init__(self, temperature=1.0, compensate=True, **kwargs):
        super().__init__(temperature, **kwargs)
        self.compensate = compensate

    def call(self, y_true, y_pred):
        temperature = self.temperature_now(y_pred)
        log_student = log_probabilities(y_pred / temperature)
        if isinstance(y_true, TopK):
            self._check_temperature(y_true)
            log_teacher, log_student = with_rest(y_true, log_student)
        else:
            log_teacher = log_probabilities(y_true / temperature)
        value = self.divergence(log_teacher, log_student)
        return temperature**2 * value if self.compensate else value

    def _check_temperature(self, top):
        known = is_number(self.temperature)
        same = known and math.isclose(top.temperature, self.temperature, rel_tol=1e-6)
        if is_number(top.temperature) and not same:
            raise ValueError(
                f"`{self.name}` must have the `temperature` at which the teacher's `TopK` was "
                f"taken. Received: temperature={self.temperature}, TopK at {top.temperature}"
            )


def log_probabilities(logits):
    """Log-softmax over the last axis, at least -1e30."""
    return ops.maximum(ops.log_softmax(logits, axis=-1), LOWEST)


def expectation(log_p, values):
    """The sum of `p * values` over the last axis, 0 where `p` is 0."""
    p = ops.exp(log_p)
    return ops.sum(ops.where(p == 0, 0.0, p * values), axis=-1)


def forward_kl(log_teacher, log_student):
    """The sum of `p_teacher * log(p_teacher / p_student)`."""
    return expectation(log_teacher, log_teacher - log_student)


def reverse_kl(log_teacher, log_student):
    """The sum of `p_student * log(p_student / p_teacher)` over what the teacher allows."""
    allowed = log_teacher > LOWEST
    return expectation(log_student, ops.where(allowed, log_student - log_teacher, 0.0))


def log_mixture(log_p, log_q, weight):
    """The log of `weight * p + (1 - weight) * q`, for a weight in (0, 1)."""
    highest = ops.stop_gradient(ops.maximum(log_p, log_q))
    p, q = ops.exp(log_p - highest), ops.exp(log_q - highest)
    return highest + ops.log(weight * p + (1 - weight) * q)


def with_rest(top, log_student):
    """Both sides' log-probabilities of the teacher's `k` classes and, last, of all others.

    Args:
        top: the teacher's `TopK`.
        log_student: the student's log-probabilities of all classes, (batch, ..., classes).

    Returns:
        The teacher's and the student's, each (batch, ..., k + 1).
    """
    ids = ops.cast(top.ids, "int32")
    kept = ops.take_along_axis(log_student, ids, axis=-1)
    others = placed(log_student, ids, ops.full_like(kept, LOWEST))
    rest = ops.logsumexp(others, axis=-1, keepdims=True)
    student = ops.concatenate([kept, rest], axis=-1)
    return log_with_tail(top), ops.maximum(student, LOWEST)


def log_with_tail(top):
    """A `TopK`'s log-probabilities of its `k` classes and, last, of all others: (..., k + 1)."""
    tail = ops.expand_dims(top.log_tail, -1)
    return ops.maximum(ops.concatenate([top.log_probs, tail], axis=-1), LOWEST)


def placed(values, ids, others):
    """`values`, (..., classes), with `others` at `ids`, (..., k), of the last axis."""
    rows = ops.reshape(values, (-1, values.shape[-1]))
    ids = ops.reshape(ids, (-1, ids.shape[-1]))
    row = ops.broadcast_to(ops.expand_dims(ops.arange(ops.shape(ids)[0]), -1), ops.shape(ids))
    places = ops.reshape(ops.stack([row, ids], axis=-1), (-1, 2))
    return ops.reshape(ops.scatter_update(rows, places, ops.reshape(others, (-1,))),
                       ops.shape(values))  # fmt: skip
