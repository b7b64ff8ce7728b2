"""Losses on features of equal width: vectors, sequences or feature maps."""

import keras
from keras import ops

from keras_distill.losses import masks
from keras_distill.losses.arithmetic import flat, matched, unit
from keras_distill.losses.distillation_loss import DistillationLoss, check_variant, one_of


@keras.saving.register_keras_serializable(package="keras_distill")
class Hint(DistillationLoss):
    """Mean squared error between features, as FitNets takes hints from a hidden layer.

    `loss = mean((student - teacher)^2)`. The paper takes half the sum. To get it, multiply the
    term's weight by half the number of elements of an example.

    SimKD is this loss with `pool=True`, on the last feature maps and with
    `projectors.ReusedClassifierProjector`.

    Args:
        pool: whether to average the larger of two feature maps down to the other's size. Defaults
            to `False`: both must have one shape.
        name: the loss's name. Defaults to `"hint"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's features, (batch, ..., channels).
        y_pred: the student's features, of the same shape.

    Returns:
        One value per example, token or position: (batch, ...).

    Raises:
        ValueError: when called, if the channels differ.

    Example:

    ```python
    Term(losses.Hint(), student="block_1", teacher="block_2", projector="auto", weight=100.0)
    ```

    Reference:
        - [Romero et al., 2014](https://arxiv.org/abs/1412.6550)
        - [Chen et al., 2022](https://arxiv.org/abs/2203.14001) (SimKD)
    """

    config = ("pool",)

    def __init__(self, pool: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.pool = pool
        self.same_shape = not pool

    def call(self, y_true, y_pred):
        if self.pool:
            check_channels(self, y_true, y_pred)
            y_true, y_pred = matched(y_true, y_pred)
        return ops.mean(ops.square(y_pred - y_true), axis=-1)


@keras.saving.register_keras_serializable(package="keras_distill")
class Cosine(DistillationLoss):
    """One minus the cosine of the angle between features.

    `loss = 1 - student . teacher / (|student| |teacher|)` along the last axis. A row of zeros has
    no direction. It counts as if it stood at a right angle to all others.

    Args:
        name: the loss's name. Defaults to `"cosine"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's features, (batch, ..., width).
        y_pred: the student's features, of the same shape.

    Returns:
        One value per example, token or position: (batch, ...).

    Example:

    ```python
    Term(losses.Cosine(), student="hidden", teacher="hidden", projector="auto")
    ```

    Reference:
        - [Sanh et al., 2019](https://arxiv.org/abs/1910.01108)
    """

    def call(self, y_true, y_pred):
        return 1.0 - ops.sum(unit(y_true) * unit(y_pred), axis=-1)


@keras.saving.register_keras_serializable(package="keras_distill")
class MaskedGeneration(DistillationLoss):
    """Squared error of features generated from masked ones, summed over an example (MGD).

    `loss = sum((generated - teacher)^2)`. The projector `projectors.MaskedGenerator` makes the
    masks and the generating convolutions. The sum is large. The authors' code has the weights 2e-5
    for segmentation and one-stage detection, 5e-7 for two-stage detection and 7e-5 for
    classification.

    Args:
        name: the loss's name. Defaults to `"masked_generation"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's features, (batch, height, width, channels).
        y_pred: the generated features, of the same shape.

    Returns:
        One value per example: (batch,).

    Example:

    ```python
    generator = projectors.MaskedGenerator(channels=256, ratio=0.5)
    Term(losses.MaskedGeneration(), student="block_4", teacher="block_4", projector=generator,
         weight=7e-5)
    ```

    Reference:
        - [Yang et al., 2022](https://arxiv.org/abs/2205.01529)
    """

    def call(self, y_true, y_pred):
        return ops.sum(ops.square(flat(y_pred - y_true)), axis=-1)


@keras.saving.register_keras_serializable(package="keras_distill")
class PearsonCorrelation(DistillationLoss):
    """Squared error of features standardized over the batch: one minus Pearson's correlation.

    `loss = mean((s - t)^2) / 2`. `s` and `t` are the features, standardized: every channel less its
    mean and divided by its standard deviation over all examples and positions. The loss is `1 - r`,
    averaged over channels. Scale and offset of a channel do not matter.

    Args:
        variant: `"paper"`, or `"code"` to divide the variance by the number of positions less one,
            as MMRazor does. The loss is then a little less than `1 - r`. Defaults to `"paper"`.
        resize: the side whose feature maps are resized bilinearly where the sizes differ,
            `"student"` or `"teacher"`. Defaults to `"student"`.
        name: the loss's name. Defaults to `"pearson_correlation"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's features, (batch, ..., channels).
        y_pred: the student's features, with the same channels.
        mask: weights of the examples or tokens; only those above zero count for mean and deviation.

    Returns:
        One value per example, token or position: (batch, ...).

    Raises:
        ValueError: if `resize` is neither side; when called, if the channels differ.

    Example:

    ```python
    Term(losses.PearsonCorrelation(), student="block_2", teacher="block_2", projector="auto")
    ```

    Reference:
        - [Cao et al., 2022](https://arxiv.org/abs/2207.02039)
    """

    needs = ("mask",)
    config = ("variant", "resize")
    same_shape = False
    across_batch = True

    def __init__(self, variant: str = "paper", resize: str = "student", **kwargs):
        super().__init__(**kwargs)
        self.variant = check_variant(variant)
        self.resize = one_of("resize", resize, ("student", "teacher"))

    def call(self, y_true, y_pred, mask=None):
        check_channels(self, y_true, y_pred)
        if len(y_pred.shape) == 4 and tuple(y_pred.shape[1:3]) != tuple(y_true.shape[1:3]):
            if self.resize == "student":
                y_pred = _bilinear(y_pred, y_true.shape[1:3])
            else:
                y_true = _bilinear(y_true, y_pred.shape[1:3])
        counted = ops.expand_dims(masks.positions(mask, y_pred), -1)
        difference = self._standardized(y_pred, counted) - self._standardized(y_true, counted)
        return 0.5 * ops.mean(ops.square(difference), axis=-1)

    def _standardized(self, features, counted):
        axes = tuple(range(len(features.shape) - 1))
        number = masks.at_least_one(ops.sum(counted))
        mean = ops.sum(features * counted, axis=axes) / number
        centred = (features - mean) * counted
        freedom = masks.at_least_one(number - 1.0) if self.variant == "code" else number
        variance = ops.sum(ops.square(centred), axis=axes) / freedom
        varies = variance > 0
        deviation = ops.sqrt(ops.where(varies, variance, 1.0))  # a constant channel stays zero
        return centred / (deviation + 1e-6)


def _bilinear(maps, size):
    return ops.image.resize(maps, size, interpolation="bilinear", data_format="channels_last")


def check_channels(loss, y_true, y_pred):
    """Raises an error if the widths differ: the features would broadcast silently."""
    if y_true.shape[-1] != y_pred.shape[-1]:
        raise ValueError(
            f"`{loss.name}` compares features with the same number of channels. Give a "
            f"`projector`. Received: teacher {tuple(y_true.shape)}, student {tuple(y_pred.shape)}"
        )
