"""Losses on the similarities between the examples of a batch."""

import math

import keras
from keras import ops

from keras_distill.losses import geometry, masks
from keras_distill.losses.arithmetic import at_least, flat, length, unit
from keras_distill.losses.distillation_loss import DistillationLoss, check_variant
from keras_distill.schedules import check


@keras.saving.register_keras_serializable(package="keras_distill")
class SimilarityPreserving(DistillationLoss):
    """Squared error of the similarities between examples, scaled to unit length for each example.

    `loss = sum_{i, j} (g_teacher(i, j) - g_student(i, j))^2 / batch^2`. `G = F F^T` holds the dot
    products of the flattened features, and `g` are its rows, each divided by its length.

    Args:
        name: the loss's name. Defaults to `"similarity_preserving"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's features, (batch, ...).
        y_pred: the student's features, (batch, ...), of any size.
        mask: the examples' weights, (batch,); those with zero weight have no similarity.

    Returns:
        One value per example: (batch,).

    Example:

    ```python
    Term(losses.SimilarityPreserving(), student="block_2", teacher="block_2")
    ```

    Reference:
        - [Tung & Mori, 2019](https://arxiv.org/abs/1907.09682)
    """

    needs = ("mask",)
    same_shape = False
    across_batch = True

    def call(self, y_true, y_pred, mask=None):
        present = masks.examples(mask, y_pred)
        teacher, student = (
            unit(geometry.products(flat(y)) * present) for y in (y_true, y_pred)
        )
        count = masks.at_least_one(ops.sum(present))
        return ops.sum(ops.square(teacher - student), axis=-1) / count


@keras.saving.register_keras_serializable(package="keras_distill")
class CorrelationCongruence(DistillationLoss):
    """Squared error of correlations between examples, by a Gaussian kernel as a Taylor series.

    `loss = sum_{i, j} (c_teacher(i, j) - c_student(i, j))^2 / batch^2` with
    `c(i, j) = exp(-2 gamma) * sum_{p = 0..order} (2 gamma)^p / p! * <x_i, x_j>^p`. The features
    have unit length, so that it approaches `exp(-gamma |x_i - x_j|^2)`.

    Args:
        gamma: the kernel's sharpness, positive. Defaults to `0.4`.
        order: the last power in the series. Defaults to `2`.
        variant: `"paper"`, or `"code"` as in RepDistiller: the mean over consecutive examples of
            `sum_d |t_i - s_i|_d |t_{i+1} - s_{i+1}|_d`, for features of equal width. Defaults to
            `"paper"`.
        name: the loss's name. Defaults to `"correlation_congruence"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's features, (batch, ...).
        y_pred: the student's features, (batch, ...), of any width.
        mask: the examples' weights, (batch,); those with zero weight have no correlation.

    Returns:
        One value per example: (batch,).

    Raises:
        ValueError: if `gamma` is not positive or `order` is less than 1.

    Example:

    ```python
    Term(losses.CorrelationCongruence(), student="hidden", teacher="hidden")
    ```

    Reference:
        - [Peng et al., 2019](https://arxiv.org/abs/1904.01802)
    """

    needs = ("mask",)
    config = ("gamma", "order", "variant")
    same_shape = False
    across_batch = True

    def __init__(self, gamma: float = 0.4, order: int = 2, variant: str = "paper", **kwargs):
        super().__init__(**kwargs)
        if order < 1:
            raise ValueError(f"`order` must be at least 1. Received: order={order}")
        self.gamma = check("gamma", gamma, low=0, strict=True)
        self.order, self.variant = order, check_variant(variant)
        self.same_shape = variant == "code"

    def call(self, y_true, y_pred, mask=None):
        present = masks.examples(mask, y_pred)
        teacher, student = flat(y_true), flat(y_pred)
        if self.variant == "code":
            return _neighbors(ops.abs(teacher - student), present)
        apart = ops.square(self._correlations(teacher) - self._correlations(student))
        return ops.sum(apart * present, axis=-1) / masks.at_least_one(ops.sum(present))

    def _correlations(self, x):
        cosines = geometry.products(unit(x))
        twice = 2 * self.gamma
        factors = [math.exp(-twice) * twice**p / math.factorial(p) for p in range(self.order + 1)]
        total = ops.full_like(cosines, factors.pop())
        while factors:
            total = total * cosines + factors.pop()
        return total


def _neighbors(apart, present):
    """Returns each example's deviation times that of the next example that counts."""
    place = ops.cumsum(present)
    follows = ops.expand_dims(place, 0) == ops.expand_dims(place + 1, 1)
    both = ops.expand_dims(present, 0) * ops.expand_dims(present, 1)
    following = ops.matmul(ops.cast(follows, apart.dtype) * both, apart)
    count = ops.sum(present)
    return ops.sum(apart * following, axis=-1) * count / masks.at_least_one(count - 1)


@keras.saving.register_keras_serializable(package="keras_distill")
class ProbabilisticTransfer(DistillationLoss):
    """Kullback-Leibler divergence of the probabilities that examples are neighbors (PKT).

    `loss = mean_i sum_{j != i} p_teacher(j | i) * log(p_teacher(j | i) / p_student(j | i))` with
    `p(j | i) = k(i, j) / sum_{l != i} k(i, l)` and `k = (1 + cosine) / 2`. The paper sums over the
    examples `i`. The mean does not depend on the batch size.

    Args:
        variant: `"paper"`, or `"code"` as in the authors' code: each example is its own neighbor
            too, and the mean is over all `batch^2` pairs. Defaults to `"paper"`.
        epsilon: the number that is added to lengths and probabilities. Defaults to `1e-7`.
        name: the loss's name. Defaults to `"probabilistic_transfer"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's features, (batch, ...).
        y_pred: the student's features, (batch, ...), of any width.
        mask: the examples' weights, (batch,); those with zero weight are no neighbors.

    Returns:
        One value per example: (batch,).

    Raises:
        ValueError: if `epsilon` is not positive.

    Example:

    ```python
    Term(losses.ProbabilisticTransfer(), student="hidden", teacher="hidden")
    ```

    Reference:
        - [Passalis & Tefas, 2018](https://arxiv.org/abs/1803.10837)
    """

    needs = ("mask",)
    config = ("variant", "epsilon")
    same_shape = False
    across_batch = True

    def __init__(self, variant: str = "paper", epsilon: float = 1e-7, **kwargs):
        super().__init__(**kwargs)
        if not epsilon > 0:
            raise ValueError(f"`epsilon` must be positive. Received: epsilon={epsilon}")
        self.variant, self.epsilon = check_variant(variant), epsilon

    def call(self, y_true, y_pred, mask=None):
        present = masks.examples(mask, y_pred)
        own_too = self.variant == "code"
        near = ops.expand_dims(present, 0) if own_too else geometry.pairs(present)
        teacher, student = (self._probabilities(flat(y), near) for y in (y_true, y_pred))
        ratio = ops.log(teacher + self.epsilon) - ops.log(student + self.epsilon)
        values = ops.sum(teacher * ratio, axis=-1)
        return values / masks.at_least_one(ops.sum(present)) if own_too else values

    def _probabilities(self, x, near):
        directions = x / (ops.expand_dims(length(x), -1) + self.epsilon)
        kernel = (geometry.products(directions) + 1) / 2 * near
        kernel = at_least(kernel, 0.0)  # a cosine may round to less than -1
        return kernel / at_least(ops.sum(kernel, axis=-1, keepdims=True), self.epsilon)
