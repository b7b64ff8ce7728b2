"""Losses on features before their ReLU: which neurons are active, and by how much."""

import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_distill.losses.arithmetic import flat
from keras_distill.losses.distillation_loss import DistillationLoss


@keras.saving.register_keras_serializable(package="keras_distill")
class ActivationBoundary(DistillationLoss):
    """Squared hinge that makes the student's neurons active where the teacher's neurons are.

    `loss = sum(max(0, margin - student)^2)` over neurons with `teacher > 0`, plus
    `sum(max(0, margin + student)^2)` over the others. Both sides are taken before the ReLU.

    The authors' code multiplies the loss by 3/1000. For every layer before the last compared one it
    multiplies by a further half. Put these factors into the terms' weights.

    Args:
        margin: how far on its side a neuron must be, non-negative. Defaults to `1.0`.
        name: the loss's name. Defaults to `"activation_boundary"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's features before their ReLU, (batch, ..., channels).
        y_pred: the student's features, of the same shape.

    Returns:
        One value per example: (batch,).

    Raises:
        ValueError: if `margin` is negative.

    Example:

    ```python
    # both layers stand before a ReLU
    Term(losses.ActivationBoundary(), student="block_2_bn", teacher="block_2_bn",
         projector="auto")
    ```

    Reference:
        - [Heo et al., 2018](https://arxiv.org/abs/1811.03233)
    """

    config = ("margin",)

    def __init__(self, margin: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        if not margin >= 0:
            raise ValueError(f"`margin` must be non-negative. Received: margin={margin}")
        self.margin = margin

    def call(self, y_true, y_pred):
        toward = ops.where(y_true > 0, -y_pred, y_pred)
        return ops.sum(ops.square(flat(ops.relu(self.margin + toward))), axis=-1)


@keras.saving.register_keras_serializable(package="keras_distill")
class OverhaulMargin(DistillationLoss):
    """Partial squared error to the teacher's features before their ReLU, cut at a margin (OFD).

    `loss = sum((student - t)^2)` with `t = max(teacher, margin)`, over the neurons where the
    teacher is positive or the student is above `t`. So a neuron at rest must be low, not equal. The
    margin of a channel is the mean of its negative values (see `from_normalization`).

    The authors' code divides the loss by 1000 on CIFAR-100 and by 10,000 on ImageNet. It halves the
    weight for every layer before the last compared one. Put these factors into the terms' weights.

    Args:
        margin: a number, or one for each of the teacher's channels, at most zero.
        name: the loss's name. Defaults to `"overhaul_margin"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's features before their ReLU, (batch, ..., channels).
        y_pred: the student's features. A projector brings them to the same shape; in the paper it
            is a 1x1 convolution without bias and batch normalization.

    Returns:
        One value per example: (batch,).

    Raises:
        ValueError: if a margin is positive.

    Example:

    ```python
    loss = losses.OverhaulMargin.from_normalization(teacher.get_layer("block_2_bn"))
    Term(loss, student="block_2_bn", teacher="block_2_bn", projector="auto")
    ```

    Reference:
        - [Heo et al., 2019](https://arxiv.org/abs/1904.01866)
    """

    config = ("margin",)

    def __init__(self, margin: float | Sequence[float], **kwargs):
        super().__init__(**kwargs)
        margin = np.asarray(ops.convert_to_numpy(margin), "float32")
        if margin.ndim > 1 or not np.all(margin <= 0):
            raise ValueError(
                "`margin` must be one non-positive number, or one for each channel. "
                f"Received: margin={margin}"
            )
        self.margin = margin.tolist()

    @classmethod
    def from_normalization(cls, layer, **kwargs):
        """Returns the loss with the margins that the batch normalization before the ReLU implies.

        The margin of a channel is the mean of its negative values, `E[x | x < 0]` for a normal `x`
        with the layer's `beta` as mean and `|gamma|` as standard deviation. It is `-3 |gamma|`
        where next to no value is negative.

        Args:
            layer: the teacher's `keras.layers.BatchNormalization`, or its `(gamma, beta)`, each
                (channels,).
            **kwargs: as in `OverhaulMargin`.

        Returns:
            An `OverhaulMargin` with one margin for each channel.

        Reference:
            - [Heo et al., 2019](https://arxiv.org/abs/1904.01866)
        """
        sides = layer if isinstance(layer, (tuple, list)) else (layer.gamma, layer.beta)
        gamma, beta = (np.asarray(ops.convert_to_numpy(side), "float64") for side in sides)
        return cls([_mean_below_zero(b, abs(g)) for g, b in zip(gamma, beta)], **kwargs)

    def call(self, y_true, y_pred):
        target = ops.maximum(y_true, ops.convert_to_tensor(self.margin, y_true.dtype))
        counts = ops.logical_or(y_pred > target, target > 0)
        return ops.sum(flat(ops.where(counts, ops.square(y_pred - target), 0.0)), axis=-1)


def _mean_below_zero(mean, deviation):
    if deviation == 0:
        return min(mean, 0.0)
    ratio = mean / deviation
    below = 0.5 * math.erfc(ratio / math.sqrt(2))
    if below <= 0.001:
        return -3 * deviation
    return mean - deviation * math.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi) / below
