"""Other divergences between softened outputs: reverse, symmetric, total variation."""

import keras
from keras import ops

from keras_distill.losses.softened import (
    Divergence,
    expectation,
    forward_kl,
    log_mixture,
    reverse_kl,
)
from keras_distill.schedules import check


@keras.saving.register_keras_serializable(package="keras_distill")
class ReverseKL(Divergence):
    """Kullback-Leibler divergence from the student to the teacher, which seeks one mode.

    `loss = T^2 * sum_c p_student(c) * (log p_student(c) - log p_teacher(c))` with
    `p = softmax(logits / T)`. A class whose teacher's logit is -inf is left out, as MiniLLM does.

    Args:
        temperature: `T`, positive: a number, a schedule or a `keras.Variable`. Defaults to `1.0`.
        compensate: whether to multiply by `T^2`. Defaults to `True`.
        name: the loss's name. Defaults to `"reverse_kl"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's logits, (batch, ..., classes), or its `TopK`.
        y_pred: the student's logits, (batch, ..., classes).

    Returns:
        One value per example or token: (batch, ...).

    Raises:
        ValueError: if `temperature` is not positive, or not that of a `TopK`.

    Reference:
        - [Gu et al., 2024](https://arxiv.org/abs/2306.08543) (MiniLLM)
    """

    def divergence(self, log_teacher, log_student):
        return reverse_kl(log_teacher, log_student)


@keras.saving.register_keras_serializable(package="keras_distill")
class SymmetricKL(Divergence):
    """The forward and the reverse Kullback-Leibler divergence, weighted.

    `loss = (1 - weight) * KL(p_teacher || p_student) + weight * KL(p_student || p_teacher)`,
    times `T^2`. A class whose teacher's logit is -inf is left out of the reverse part.

    Args:
        weight: the part of the reverse divergence, in [0, 1]. Defaults to `0.5`.
        temperature: `T`, positive: a number, a schedule or a `keras.Variable`. Defaults to `1.0`.
        compensate: whether to multiply by `T^2`. Defaults to `True`.
        name: the loss's name. Defaults to `"symmetric_kl"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's logits, (batch, ..., classes), or its `TopK`.
        y_pred: the student's logits, (batch, ..., classes).

    Returns:
        One value per example or token: (batch, ...).

    Raises:
        ValueError: if `weight` is not in [0, 1], `temperature` is not positive, or not that of a
            `TopK`.

    Reference:
        - [Ko et al., 2024](https://arxiv.org/abs/2402.03898) (DistiLLM)
    """

    config = ("weight",)

    def __init__(self, weight=0.5, temperature=1.0, compensate=True, **kwargs):
        super().__init__(temperature, compensate, **kwargs)
        self.weight = float(check("weight", weight, low=0, high=1))

    def divergence(self, log_teacher, log_student):
        forward = forward_kl(log_teacher, log_student)
        return (1 - self.weight) * forward + self.weight * reverse_kl(log_teacher, log_student)


@keras.saving.register_keras_serializable(package="keras_distill")
class JensenShannon(Divergence):
    """Generalized Jensen-Shannon divergence of softened outputs, as GKD defines it.

    `loss = T^2 * (beta * KL(p_teacher || m) + (1 - beta) * KL(p_student || m))` with the mixture
    `m = beta * p_teacher + (1 - beta) * p_student`; the gradient flows through `m`. At both ends
    the formula vanishes, so there, as in GKD, `beta=0` is the forward and `beta=1` the reverse
    Kullback-Leibler divergence. GKD has no factor `T^2` (`compensate=False`).

    Args:
        beta: the teacher's part of the mixture, in [0, 1]. Defaults to `0.5`.
        temperature: `T`, positive: a number, a schedule or a `keras.Variable`. Defaults to `1.0`.
        compensate: whether to multiply by `T^2`. Defaults to `True`.
        name: the loss's name. Defaults to `"jensen_shannon"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's logits, (batch, ..., classes), or its `TopK`: then all classes but
            the teacher's `k` count as one.
        y_pred: the student's logits, (batch, ..., classes).

    Returns:
        One value per example or token: (batch, ...).

    Raises:
        ValueError: if `beta` is not in [0, 1], `temperature` is not positive, or not that of a
            `TopK`.

    Reference:
        - [Agarwal et al., 2024](https://arxiv.org/abs/2306.13649) (GKD)
    """

    config = ("beta",)

    def __init__(self, beta=0.5, temperature=1.0, compensate=True, **kwargs):
        super().__init__(temperature, compensate, **kwargs)
        self.beta = float(check("beta", beta, low=0, high=1))

    def divergence(self, log_teacher, log_student):
        beta = self.beta
        if beta in (0.0, 1.0):
            return (reverse_kl if beta else forward_kl)(log_teacher, log_student)
        mixture = log_mixture(log_teacher, log_student, beta)
        teacher = expectation(log_teacher, log_teacher - mixture)
        return beta * teacher + (1 - beta) * expectation(log_student, log_student - mixture)


@keras.saving.register_keras_serializable(package="keras_distill")
class TotalVariation(Divergence):
    """Total variation distance of softened outputs.

    `loss = T^2 * 0.5 * sum_c |p_teacher(c) - p_student(c)|` with `p = softmax(logits / T)`.

    Args:
        temperature: `T`, positive: a number, a schedule or a `keras.Variable`. Defaults to `1.0`.
        compensate: whether to multiply by `T^2`. Defaults to `True`.
        name: the loss's name. Defaults to `"total_variation"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's logits, (batch, ..., classes), or its `TopK`: then all classes but
            the teacher's `k` count as one.
        y_pred: the student's logits, (batch, ..., classes).

    Returns:
        One value per example or token: (batch, ...).

    Raises:
        ValueError: if `temperature` is not positive, or not that of a `TopK`.

    Reference:
        - [Wen et al., 2023](https://arxiv.org/abs/2307.15190)
    """

    def divergence(self, log_teacher, log_student):
        return 0.5 * ops.sum(ops.abs(ops.exp(log_teacher) - ops.exp(log_student)), axis=-1)
