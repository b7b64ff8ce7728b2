"""Losses on maps: one prediction or feature for every position of an image."""

import keras
from keras import ops

from keras_distill.losses.arithmetic import at_least, unit
from keras_distill.losses.distillation_loss import DistillationLoss, check_variant, one_of
from keras_distill.losses.softened import (
    LOWEST,
    SoftenedLoss,
    log_probabilities,
    scaled,
)
from keras_distill.schedules import Hyperparameter

DIVERGENCES = ("kl", "mse")


class _Softened(SoftenedLoss):
    """A divergence of softmax distributions along the last axis."""

    config = ("divergence",)

    def __init__(self, temperature, divergence, **kwargs):
        super().__init__(temperature, **kwargs)
        self.divergence = one_of("divergence", divergence, DIVERGENCES)

    def _diverge(self, teacher, student, temperature):
        """Returns `T^2 * KL` of the softened sides, or the squared differences at `T = 1`."""
        if self.divergence == "kl":
            temperature = self.temperature_now(student, temperature)
            # finite after the division: XLA's rounding would not undo the division in the softmax
            sides = (at_least(scaled(side, temperature), LOWEST) for side in (teacher, student))
            return temperature**2 * self.kl(*map(log_probabilities, sides))
        teacher, student = (at_least(side, LOWEST) for side in (teacher, student))
        apart = ops.softmax(teacher, axis=-1) - ops.softmax(student, axis=-1)
        return ops.sum(ops.square(apart), axis=-1)


@keras.saving.register_keras_serializable(package="keras_distill")
class ChannelWise(_Softened):
    """Compares where each channel of a map is active, as distributions over positions (CWD).

    `loss = T^2 / channels * sum_c sum_i p_teacher(c, i) * log(p_teacher(c, i) / p_student(c, i))`
    with `p(c, .) = softmax over positions i of map(i, c) / T`.

    Args:
        temperature: `T`, positive: a number, a schedule or a `keras.Variable`. Defaults to `4.0`.
        divergence: `"kl"`, or `"mse"` for the sum of squared differences at `T = 1`. Defaults to
            `"kl"`.
        name: the loss's name. Defaults to `"channel_wise"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's logits or features, (batch, height, width, channels), or
            (batch, positions, channels).
        y_pred: the student's, of the same shape.

    Returns:
        One value per example: (batch,).

    Raises:
        ValueError: if `temperature` is not positive, or for an unknown `divergence`.

    Example:

    ```python
    # a segmentation model whose output is (batch, height, width, classes)
    Term(losses.ChannelWise(temperature=4.0), weight=3.0)
    ```

    Reference:
        - [Shu et al., 2021](https://arxiv.org/abs/2011.13256)
    """

    def __init__(self, temperature: Hyperparameter | str = 4.0, divergence: str = "kl", **kwargs):
        super().__init__(temperature, divergence, **kwargs)

    def call(self, y_true, y_pred, temperature=None):
        teacher, student = (self._by_channel(maps) for maps in (y_true, y_pred))
        return ops.mean(self._diverge(teacher, student, temperature), axis=-1)

    def _by_channel(self, maps):
        """Returns the maps as (batch, channels, positions)."""
        maps = ops.reshape(maps, (ops.shape(maps)[0], -1, maps.shape[-1]))
        return ops.swapaxes(maps, 1, 2)


@keras.saving.register_keras_serializable(package="keras_distill")
class PixelWise(_Softened):
    """Compares the classes of each pixel, as distributions over classes.

    `loss = T^2 * sum_c p_teacher(c) * log(p_teacher(c) / p_student(c))` for each pixel, with
    `p = softmax(logits / T)`.

    Args:
        temperature: `T`, positive: a number, a schedule or a `keras.Variable`. Defaults to `1.0`.
        divergence: `"kl"`, or `"mse"` for the sum of squared differences at `T = 1`. Defaults to
            `"kl"`.
        variant: `"paper"`, or `"code"` as in the authors' code, which takes the mean over the
            classes in place of the sum, and no factor `T^2`. Defaults to `"paper"`.
        name: the loss's name. Defaults to `"pixel_wise"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's logits, (batch, height, width, classes).
        y_pred: the student's logits, of the same shape.

    Returns:
        One value per pixel: (batch, height, width).

    Raises:
        ValueError: if `temperature` is not positive, or for an unknown `divergence`.

    Example:

    ```python
    # a segmentation model whose output is (batch, height, width, classes)
    Term(losses.PixelWise(), weight=10.0)
    ```

    Reference:
        - [Liu et al., 2019](https://arxiv.org/abs/1903.04197)
    """

    config = ("variant",)

    def __init__(
        self,
        temperature: Hyperparameter | str = 1.0,
        divergence: str = "kl",
        variant: str = "paper",
        **kwargs,
    ):
        super().__init__(temperature, divergence, **kwargs)
        self.variant = check_variant(variant)

    def call(self, y_true, y_pred, temperature=None):
        values = self._diverge(y_true, y_pred, temperature)
        if self.variant == "paper":
            return values
        if self.divergence == "kl":
            values = values / self.temperature_now(y_pred, temperature) ** 2
        return values / y_pred.shape[-1]


@keras.saving.register_keras_serializable(package="keras_distill")
class IntraClassVariation(DistillationLoss):
    """Compares how far each pixel's feature points from the center of its class (IFVD).

    `loss = (cos(t_i, T_i) - cos(s_i, S_i))^2` for each pixel `i`, where `T_i` and `S_i` are the
    means of the teacher's and the student's features over the image's pixels of the same class. A
    pixel whose label is no class is its own center.

    Args:
        classes: the number of classes; labels outside `[0, classes)` are no class.
        name: the loss's name. Defaults to `"intra_class_variation"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's features, (batch, height, width, channels).
        y_pred: the student's features, of the same height and width.
        mask: weights, (batch,) or (batch, height, width). Pixels with zero weight do not count for
            a center.
        labels: a class for each pixel, (batch, rows, columns), of any size, or one for each image,
            (batch,). If the size differs, each position takes the label of the nearest pixel.

    Returns:
        One value per pixel: (batch, height, width).

    Raises:
        ValueError: if `classes` is not positive, or the sides differ in height or width.

    Example:

    ```python
    # `fit` must be given a class for each pixel
    Term(losses.IntraClassVariation(classes=21), student="block_2", teacher="block_2")
    ```

    Reference:
        - [Wang et al., 2020](https://www.ecva.net/papers/eccv_2020/papers_ECCV/html/230_ECCV_2020_paper.php)
    """

    needs = ("mask", "labels")
    config = ("classes",)
    same_shape = False

    def __init__(self, classes: int, **kwargs):
        super().__init__(**kwargs)
        if classes < 1:
            raise ValueError(f"`classes` must be positive. Received: classes={classes}")
        self.classes = classes

    def call(self, y_true, y_pred, mask=None, labels=None):
        sizes = zip(y_true.shape[1:3], y_pred.shape[1:3])
        if labels is None or any(None not in size and size[0] != size[1] for size in sizes):
            raise ValueError(
                "`IntraClassVariation` needs labels, and features of the same height and width. "
                f"Received: teacher {y_true.shape}, student {y_pred.shape}, labels={labels}"
            )
        members = self._members(labels, y_pred, mask)
        return ops.square(_cosine(y_true, members) - _cosine(y_pred, members))

    def _members(self, labels, maps, mask):
        """Returns 1.0 for the class of each pixel: (batch, height, width, classes)."""
        if len(labels.shape) == 4:
            labels = ops.squeeze(labels, axis=-1)
        labels = ops.cast(ops.reshape(labels, (*ops.shape(labels), 1, 1)[:3]), "int32")
        for axis in (1, 2):
            size = ops.shape(maps)[axis]
            nearest = ops.arange(size) * ops.shape(labels)[axis] // size
            labels = ops.take(labels, nearest, axis=axis)
        members = ops.expand_dims(labels, -1) == ops.arange(self.classes, dtype="int32")
        members = ops.cast(members, maps.dtype)
        if mask is not None and len(mask.shape) == 3:
            members = members * ops.cast(ops.expand_dims(mask > 0, -1), maps.dtype)
        return members


def _cosine(maps, members):
    """Returns the cosine of each feature and the center of its class: (batch, height, width)."""
    count = ops.expand_dims(ops.sum(members, axis=(1, 2)), -1)
    centers = ops.einsum("bhwk,bhwc->bkc", members, maps) / (count + 1e-6)
    own = 1.0 - ops.sum(members, axis=-1, keepdims=True)
    center = ops.einsum("bhwk,bkc->bhwc", members, centers) + own * maps
    return ops.sum(unit(maps) * unit(center), axis=-1)
