"""Losses that read the labels: they separate the target class from others, or weigh examples."""

import keras
from keras import ops

from keras_distill.losses.answers import class_ids
from keras_distill.losses.arithmetic import at_least
from keras_distill.losses.softened import (
    LOWEST,
    SoftenedLoss,
    expectation,
    log_probabilities,
    scaled,
)
from keras_distill.schedules import Hyperparameter, check


@keras.saving.register_keras_serializable(package="keras_distill")
class DecoupledKD(SoftenedLoss):
    """Distillation with the target class and the other classes weighed apart.

    `loss = T^2 * (alpha * TCKD + beta * NCKD)`. TCKD is the Kullback-Leibler divergence, teacher to
    student, of "the label's class or not". NCKD is that of the other classes among themselves. With
    `alpha=1` and `beta = 1 - p_teacher(label)` the loss would be `KLDivergence`.

    Args:
        alpha: the weight of the target class. Defaults to `1.0`.
        beta: the weight of the other classes. Defaults to `8.0`.
        temperature: `T`, positive: a number, a schedule or a `keras.Variable`. Defaults to `4.0`.
        name: the loss's name. Defaults to `"decoupled_kd"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's logits, (batch, ..., classes).
        y_pred: the student's logits, of the same shape.
        labels: classes, (batch, ...) or (batch, ..., 1), or one-hot, (batch, ..., classes).

    Returns:
        One value per example or token: (batch, ...).

    Raises:
        ValueError: for a negative `alpha` or `beta`, or a `temperature` that is not positive.

    Example:

    ```python
    # `fit` must be given labels: the loss reads them
    Term(losses.DecoupledKD(alpha=1.0, beta=8.0, temperature=4.0))
    ```

    Reference:
        - [Zhao et al., 2022](https://arxiv.org/abs/2203.08679)
    """

    needs = ("labels",)
    config = ("alpha", "beta")

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: Hyperparameter | str = 4.0,
        **kwargs,
    ):
        super().__init__(temperature, **kwargs)
        self.alpha = float(check("alpha", alpha, low=0))
        self.beta = float(check("beta", beta, low=0))

    def call(self, y_true, y_pred, labels=None, temperature=None):
        temperature = self.temperature_now(y_pred, temperature)
        target = target_mask(self, labels, y_pred)
        teacher, student = scaled(y_true, temperature), scaled(y_pred, temperature)
        log_teacher, log_student = target_or_not(teacher, target), target_or_not(student, target)
        of_target = self.kl(log_teacher, log_student)
        log_teacher, log_student = among_others(teacher, target), among_others(student, target)
        of_others = self.kl(log_teacher, log_student)
        return temperature**2 * (self.alpha * of_target + self.beta * of_others)


@keras.saving.register_keras_serializable(package="keras_distill")
class NormalizedKD(SoftenedLoss):
    """Distillation of the target class, and of the other classes renormalized.

    `loss = -p_t(y) * log p_s(y) - gamma * T^2 * sum_(c != y) q_t(c) * log q_s(c)`, for the label
    `y`. `p` is the softmax at temperature 1, and `q` is the softmax of the other classes at `T`.

    Args:
        gamma: the weight of the other classes. Defaults to `1.5`.
        temperature: `T`, positive: a number, a schedule or a `keras.Variable`. Defaults to `1.0`.
        name: the loss's name. Defaults to `"normalized_kd"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's logits, (batch, ..., classes).
        y_pred: the student's logits, of the same shape.
        labels: classes, (batch, ...) or (batch, ..., 1), or one-hot, (batch, ..., classes).

    Returns:
        One value per example or token: (batch, ...).

    Raises:
        ValueError: for a negative `gamma`, or a `temperature` that is not positive.

    Example:

    ```python
    # `fit` must be given labels: the loss reads them
    Term(losses.NormalizedKD(gamma=1.5))
    ```

    Reference:
        - [Yang et al., 2023](https://arxiv.org/abs/2303.13005)
    """

    needs = ("labels",)
    config = ("gamma",)

    def __init__(self, gamma: float = 1.5, temperature: Hyperparameter | str = 1.0, **kwargs):
        super().__init__(temperature, **kwargs)
        self.gamma = float(check("gamma", gamma, low=0))

    def call(self, y_true, y_pred, labels=None, temperature=None):
        temperature = self.temperature_now(y_pred, temperature)
        target = target_mask(self, labels, y_pred)
        log_teacher, log_student = target_or_not(y_true, target), target_or_not(y_pred, target)
        of_target = expectation(log_teacher[..., :1], log_student[..., :1])
        log_teacher = among_others(scaled(y_true, temperature), target)
        log_student = among_others(scaled(y_pred, temperature), target)
        of_others = expectation(log_teacher, log_student)
        return -of_target - self.gamma * temperature**2 * of_others


@keras.saving.register_keras_serializable(package="keras_distill")
class WeightedSoftLabels(SoftenedLoss):
    """Soft cross-entropy, weaker if the student fits the label better than the teacher does.

    `loss = w * T^2 * -sum_c p_teacher(c) * log p_student(c)` with `p = softmax(logits / T)` and
    `w = 1 - exp(-ce_student / ce_teacher)`. `ce` is the cross-entropy of a side with the label at
    temperature 1. The weight is a constant: no gradient flows through it.

    Args:
        temperature: `T`, positive: a number, a schedule or a `keras.Variable`. Defaults to `2.0`.
        name: the loss's name. Defaults to `"weighted_soft_labels"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's logits, (batch, ..., classes).
        y_pred: the student's logits, of the same shape.
        labels: classes, (batch, ...) or (batch, ..., 1), or one-hot, (batch, ..., classes).

    Returns:
        One value per example or token: (batch, ...).

    Raises:
        ValueError: if `temperature` is not positive.

    Example:

    ```python
    # `fit` must be given labels: the loss reads them
    Term(losses.WeightedSoftLabels(temperature=2.0))
    ```

    Reference:
        - [Zhou et al., 2021](https://arxiv.org/abs/2102.00650)
    """

    needs = ("labels",)

    def __init__(self, temperature: Hyperparameter | str = 2.0, **kwargs):
        super().__init__(temperature, **kwargs)

    def call(self, y_true, y_pred, labels=None, temperature=None):
        temperature = self.temperature_now(y_pred, temperature)
        target = target_mask(self, labels, y_pred)
        teacher, student = (-target_or_not(side, target)[..., 0] for side in (y_true, y_pred))
        weight = ops.stop_gradient(1 - ops.exp(-student / (teacher + 1e-7)))
        log_teacher = log_probabilities(scaled(y_true, temperature))
        log_student = log_probabilities(scaled(y_pred, temperature))
        return -weight * temperature**2 * expectation(log_teacher, log_student)


def target_mask(loss, labels, logits):
    """Returns whether each class is the label's, as booleans (batch, ..., classes)."""
    if labels is None:
        raise ValueError(
            f"`{loss.name}` needs `labels`. Give labels to `fit`. Received: labels=None"
        )
    labels = class_ids(labels, logits, loss.name)
    classes = ops.arange(logits.shape[-1], dtype="int32")
    return ops.equal(ops.expand_dims(labels, -1), classes)


def target_or_not(logits, target):
    """Returns the log-probabilities of the target class and of all others together."""
    log_p = log_probabilities(logits)
    sides = [ops.logsumexp(ops.where(side, log_p, LOWEST), axis=-1)
             for side in (target, ops.logical_not(target))]  # fmt: skip
    return ops.stack(sides, axis=-1)


def among_others(logits, target):
    """Returns log-probabilities among the classes but the target; the target's is -1e30."""
    return log_probabilities(ops.where(target, LOWEST, at_least(logits, LOWEST)))
