"""Divergences from one side to a mixture of both, as DistiLLM skews them."""

import keras

from keras_distill.losses.softened import LOWEST, Divergence, log_mixture


class _Skewed(Divergence):
    """A divergence against a mixture of both sides; a share of 0 gives the plain divergence."""

    config = ("mix",)

    def __init__(self, mix=0.1, temperature=1.0, compensate=True, **kwargs):
        super().__init__(temperature, compensate, **kwargs)
        if not 0 <= mix < 1:
            raise ValueError(f"`mix` must be in [0, 1). Received: mix={mix}")
        self.mix = float(mix)


@keras.saving.register_keras_serializable(package="keras_distill")
class SkewedKL(_Skewed):
    """Kullback-Leibler divergence from the teacher to a mixture of teacher and student.

    `loss = T^2 * KL(p_teacher || mix * p_teacher + (1 - mix) * p_student)`. It is at most
    `-T^2 * log mix`, however far the student is off. DistiLLM's code computes the cross-entropy,
    which has the same gradient: it adds the teacher's entropy to the value.

    Args:
        mix: the teacher's share of the mixture, in [0, 1) (DistiLLM's `alpha`). Defaults to `0.1`.
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
        ValueError: if `mix` is not in [0, 1), `temperature` is not positive, or not that of a
            `TopK`.

    Example:

    ```python
    Term(losses.SkewedKL(mix=0.1))
    ```

    Reference:
        - [Ko et al., 2024](https://arxiv.org/abs/2402.03898) (DistiLLM)
    """

    def divergence(self, log_teacher, log_student):
        if not self.mix:
            return self.kl(log_teacher, log_student)
        return self.kl(log_teacher, log_mixture(log_teacher, log_student, self.mix))


@keras.saving.register_keras_serializable(package="keras_distill")
class SkewedReverseKL(_Skewed):
    """Kullback-Leibler divergence from the student to a mixture of student and teacher.

    `loss = T^2 * KL(p_student || (1 - mix) * p_teacher + mix * p_student)`. The gradient flows
    through the mixture.

    Args:
        mix: the student's share of the mixture, in [0, 1) (DistiLLM's `alpha`). Defaults to `0.1`.
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
        ValueError: if `mix` is not in [0, 1), `temperature` is not positive, or not that of a
            `TopK`.

    Example:

    ```python
    Term(losses.SkewedReverseKL(mix=0.1))
    ```

    Reference:
        - [Ko et al., 2024](https://arxiv.org/abs/2402.03898) (DistiLLM)
    """

    def divergence(self, log_teacher, log_student):
        if not self.mix:
            return self.kl(log_student, log_teacher, log_teacher > LOWEST)
        return self.kl(log_student, log_mixture(log_student, log_teacher, self.mix))
