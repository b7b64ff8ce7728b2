"""Other divergences between softened outputs: reverse, symmetric, total variation."""

import keras
from keras import ops

from keras_distill.losses.softened import LOWEST, Divergence, log_mixture
from keras_distill.schedules import Hyperparameter, check


@keras.saving.register_keras_serializable(package="keras_distill")
class ReverseKL(Divergence):
    """Kullback-Leibler divergence from the student to the teacher, which seeks one mode.

    `loss = T^2 * sum_c p_student(c) * (log p_student(c) - log p_teacher(c))` with
    `p = softmax(logits / T)`. Classes that the teacher gives a logit of -inf do not count, as in
    MiniLLM.

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

    Example:

    ```python
    Term(losses.ReverseKL(), weight=0.5, name="seeks_one_mode")
    ```

    Reference:
        - [Gu et al., 2024](https://arxiv.org/abs/2306.08543) (MiniLLM)
    """

    def divergence(self, log_teacher, log_student):
        return self.kl(log_student, log_teacher, log_teacher > LOWEST)


@keras.saving.register_keras_serializable(package="keras_distill")
class SymmetricKL(Divergence):
    """The forward and the reverse Kullback-Leibler divergence, weighted.

    `loss = (1 - mix) * KL(p_teacher || p_student) + mix * KL(p_student || p_teacher)`,
    times `T^2`. Classes that the teacher gives a logit of -inf do not count in the reverse part.

    Args:
        mix: the share of the reverse divergence, in [0, 1]. Defaults to `0.5`.
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
        ValueError: if `mix` is not in [0, 1], `temperature` is not positive, or not that of a
            `TopK`.

    Example:

    ```python
    Term(losses.SymmetricKL(mix=0.9))
    ```

    Reference:
        - [Ko et al., 2024](https://arxiv.org/abs/2402.03898) (DistiLLM)
    """

    config = ("mix",)

    def __init__(
        self,
        mix: float = 0.5,
        temperature: Hyperparameter | str = 1.0,
        compensate: bool = True,
        **kwargs,
    ):
        super().__init__(temperature, compensate, **kwargs)
        self.mix = float(check("mix", mix, low=0, high=1))

    def divergence(self, log_teacher, log_student):
        forward = self.kl(log_teacher, log_student)
        reverse = self.kl(log_student, log_teacher, log_teacher > LOWEST)
        return (1 - self.mix) * forward + self.mix * reverse


@keras.saving.register_keras_serializable(package="keras_distill")
class JensenShannon(Divergence):
    """Generalized Jensen-Shannon divergence of softened outputs, as GKD defines it.

    `loss = T^2 * (mix * KL(p_teacher || m) + (1 - mix) * KL(p_student || m))` with the mixture
    `m = mix * p_teacher + (1 - mix) * p_student`. The gradient flows through `m`. The formula
    vanishes at both ends. There the loss is, as in GKD, the forward (`mix=0`) or the reverse
    (`mix=1`) Kullback-Leibler divergence. GKD has no factor `T^2` (`compensate=False`).

    Args:
        mix: the teacher's share of the mixture, in [0, 1] (GKD's `beta`). Defaults to `0.5`.
        temperature: `T`, positive: a number, a schedule or a `keras.Variable`. Defaults to `1.0`.
        compensate: whether to multiply by `T^2`. Defaults to `True`.
        name: the loss's name. Defaults to `"jensen_shannon"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's logits, (batch, ..., classes), or its `TopK`. With a `TopK` all
            classes but the teacher's `k` count as one.
        y_pred: the student's logits, (batch, ..., classes).

    Returns:
        One value per example or token: (batch, ...).

    Raises:
        ValueError: if `mix` is not in [0, 1], `temperature` is not positive, or not that of a
            `TopK`.

    Example:

    ```python
    Term(losses.JensenShannon(mix=0.5))
    ```

    Reference:
        - [Agarwal et al., 2024](https://arxiv.org/abs/2306.13649) (GKD)
    """

    config = ("mix",)

    def __init__(
        self,
        mix: float = 0.5,
        temperature: Hyperparameter | str = 1.0,
        compensate: bool = True,
        **kwargs,
    ):
        super().__init__(temperature, compensate, **kwargs)
        self.mix = float(check("mix", mix, low=0, high=1))

    def divergence(self, log_teacher, log_student):
        mix = self.mix
        if mix == 0:
            return self.kl(log_teacher, log_student)
        if mix == 1:
            return self.kl(log_student, log_teacher, log_teacher > LOWEST)
        mixture = log_mixture(log_teacher, log_student, mix)
        return mix * self.kl(log_teacher, mixture) + (1 - mix) * self.kl(log_student, mixture)


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
        y_true: the teacher's logits, (batch, ..., classes), or its `TopK`. With a `TopK` all
            classes but the teacher's `k` count as one.
        y_pred: the student's logits, (batch, ..., classes).

    Returns:
        One value per example or token: (batch, ...).

    Raises:
        ValueError: if `temperature` is not positive, or not that of a `TopK`.

    Example:

    ```python
    Term(losses.TotalVariation())
    ```

    Reference:
        - [Wen et al., 2023](https://arxiv.org/abs/2307.15190)
    """

    def divergence(self, log_teacher, log_student):
        return 0.5 * ops.sum(ops.abs(ops.exp(log_teacher) - ops.exp(log_student)), axis=-1)
