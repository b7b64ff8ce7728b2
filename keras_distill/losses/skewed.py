"""Divergences from one side to a mixture of both, as DistiLLM skews them."""

import keras

from keras_distill.losses.softened import (
    Divergence,
    expectation,
    forward_kl,
    log_mixture,
    reverse_kl,
)


class _Skewed(Divergence):
    """A divergence against a mixture of both sides; without a part of it, the plain one."""

    config = ("alpha",)

    def __init__(self, alpha=0.1, temperature=1.0, compensate=True, **kwargs):
        super().__init__(temperature, compensate, **kwargs)
        if not 0 <= alpha < 1:
            raise ValueError(f"`alpha` must be in [0, 1). Received: alpha={alpha}")
        self.alpha = float(alpha)


@keras.saving.register_keras_serializable(package="keras_distill")
class SkewedKL(_Skewed):
    """Kullback-Leibler divergence from the teacher to a mixture of teacher and student.

    `loss = T^2 * KL(p_teacher || alpha * p_teacher + (1 - alpha) * p_student)`. It is bounded by
    `-log alpha` however far the student is off. DistiLLM's code computes the cross-entropy, which
    adds the teacher's entropy to the value and nothing to the gradient.

    Args:
        alpha: the teacher's part of the mixture, in [0, 1). Defaults to `0.1`.
        temperature: `T`, positive: a number, a schedule or a `keras.Variable`. Defaults to `1.0`.
        compensate: whether to multiply by `T^2`. Defaults to `True`.
        name: the loss's name. Defaults to `"skewed_kl"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's logits, (batch, ..., classes), or its `TopK`.
        y_pred: the student's logits, (batch, ..., classes).

    Returns:
        One value per example or token: (batch, ...).

    Raises:
        ValueError: if `alpha` is not in [0, 1), `temperature` is not positive, or not that of a
            `TopK`.

    Reference:
        - [Ko et al., 2024](https://arxiv.org/abs/2402.03898) (DistiLLM)
    """

    def divergence(self, log_teacher, log_student):
        if not self.alpha:
            return forward_kl(log_teacher, log_student)
        return forward_kl(log_teacher, log_mixture(log_teacher, log_student, self.alpha))


@keras.saving.register_keras_serializable(package="keras_distill")
class SkewedReverseKL(_Skewed):
    """Kullback-Leibler divergence from the student to a mixture of student and teacher.

    `loss = T^2 * KL(p_student || (1 - alpha) * p_teacher + alpha * p_student)`; the gradient
    flows through the mixture.

    Args:
        alpha: the student's part of the mixture, in [0, 1). Defaults to `0.1`.
        temperature: `T`, positive: a number, a schedule or a `keras.Variable`. Defaults to `1.0`.
        compensate: whether to multiply by `T^2`. Defaults to `True`.
        name: the loss's name. Defaults to `"skewed_reverse_kl"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's logits, (batch, ..., classes), or its `TopK`.
        y_pred: the student's logits, (batch, ..., classes).

    Returns:
        One value per example or token: (batch, ...).

    Raises:
        ValueError: if `alpha` is not in [0, 1), `temperature` is not positive, or not that of a
            `TopK`.

    Reference:
        - [Ko et al., 2024](https://arxiv.org/abs/2402.03898) (DistiLLM)
    """

    def divergence(self, log_teacher, log_student):
        if not self.alpha:
            return reverse_kl(log_teacher, log_student)
        mixture = log_mixture(log_student, log_teacher, self.alpha)
        return expectation(log_student, log_student - mixture)
