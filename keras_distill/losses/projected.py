"""Losses on the output of a projector of the student's feature maps (see `projectors`)."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_distill.losses.arithmetic import adaptive_average_pool, flat, length, matched, unit
from keras_distill.losses.distillation_loss import DistillationLoss, check_variant
from keras_distill.losses.maps import pairs_of


@keras.saving.register_keras_serializable(package="keras_distill")
class VariationalInformation(DistillationLoss):
    """Negative log-likelihood of the teacher's features under a normal distribution (VID).

    `loss = sum(log(variance) + (teacher - mean)^2 / variance) / 2` with
    `variance = log(1 + exp(scale)) + epsilon`, one for each channel. It is a bound on the mutual
    information. `projectors.VariationalProjector` computes the mean from the student's features,
    and holds the scale.

    Args:
        variant: `"paper"`, or `"code"` for the mean over elements in place of their sum, as in
            RepDistiller. Defaults to `"paper"`.
        epsilon: the least variance, positive. Defaults to `1e-5`.
        name: the loss's name. Defaults to `"variational_information"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's features, (batch, ..., channels).
        y_pred: a dict: `"mean"`, of the teacher's shape (the larger of two feature maps is
            averaged down), and `"scale"`, (channels,) or (batch, channels).

    Returns:
        One value per example: (batch,).

    Raises:
        ValueError: if `epsilon` is not positive.

    Example:

    ```python
    projector = projectors.VariationalProjector(channels=32)
    Term(losses.VariationalInformation(), student="block_2", teacher="block_2",
         projector=projector)
    ```

    Reference:
        - [Ahn et al., 2019](https://arxiv.org/abs/1904.05835)
    """

    config = ("variant", "epsilon")
    same_shape = False

    def __init__(self, variant: str = "paper", epsilon: float = 1e-5, **kwargs):
        super().__init__(**kwargs)
        if not epsilon > 0:
            raise ValueError(f"`epsilon` must be positive. Received: epsilon={epsilon}")
        self.variant, self.epsilon = check_variant(variant), epsilon

    def call(self, y_true, y_pred):
        mean, scale = y_pred["mean"], y_pred["scale"]
        if len(mean.shape) == 4:
            y_true, mean = matched(y_true, mean)
        between = [1] * (len(mean.shape) - 2)
        variance = ops.softplus(ops.reshape(scale, (-1, *between, scale.shape[-1]))) + self.epsilon
        values = 0.5 * (ops.log(variance) + ops.square(y_true - mean) / variance)
        return (ops.mean if self.variant == "code" else ops.sum)(flat(values), axis=-1)


@keras.saving.register_keras_serializable(package="keras_distill")
class FactorTransfer(DistillationLoss):
    """Distance between the unit-length factors of teacher and student (FT).

    `loss = |t / |t|_2 - s / |s|_2|_p`, with the factors of an example as one vector. A
    `projectors.Paraphraser`, which is trained beforehand, computes the teacher's factors. A
    `projectors.Translator` computes the student's.

    Args:
        p: the norm of the difference, at least 1. Defaults to `1`.
        variant: `"paper"`, or `"code"` for `mean |difference|^p` in place of the norm, as in
            MMRazor and RepDistiller. Defaults to `"paper"`.
        channel_power: the power to which the factors are raised before they are averaged over
            channels, as in RepDistiller. The larger map is then averaged down to the smaller one's
            size. Defaults to `None`: no averaging.
        name: the loss's name. Defaults to `"factor_transfer"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's factors, (batch, height, width, channels).
        y_pred: the student's factors, of the same shape; with `channel_power` both may differ.

    Returns:
        One value per example: (batch,).

    Raises:
        ValueError: if `p` is less than 1.

    Example:

    ```python
    paraphraser = projectors.Paraphraser(channels=32)  # train it first, see `Paraphraser`
    factor = paraphraser.encoder(teacher.get_layer("block_2").output)
    outputs = {"logits": teacher.output, "factor": factor}
    teacher = keras.Model(teacher.input, outputs)
    Term(losses.FactorTransfer(), student="block_2", teacher="output:factor",
         projector=projectors.Translator(channels=factor.shape[-1]))
    ```

    Reference:
        - [Kim et al., 2018](https://arxiv.org/abs/1802.04977)
    """

    config = ("p", "variant", "channel_power")

    def __init__(
        self, p: int = 1, variant: str = "paper", channel_power: float | None = None, **kwargs
    ):
        super().__init__(**kwargs)
        if p < 1:
            raise ValueError(f"`p` must be at least 1. Received: p={p}")
        self.p, self.variant, self.channel_power = p, check_variant(variant), channel_power
        self.same_shape = channel_power is None

    def call(self, y_true, y_pred):
        if self.channel_power is not None:
            y_true, y_pred = matched(y_true, y_pred)
        difference = self._factors(y_pred) - self._factors(y_true)
        if self.p == 2 and self.variant == "paper":
            return length(difference)
        powers = ops.power(ops.abs(difference), self.p)
        if self.variant == "code":
            return ops.mean(powers, axis=-1)
        return _root(ops.sum(powers, axis=-1), self.p)

    def _factors(self, maps):
        if self.channel_power is not None:
            maps = ops.mean(ops.power(maps, self.channel_power), axis=-1)
        return unit(flat(maps))


def _root(values, p):
    positive = values > 0
    return ops.where(positive, ops.power(ops.where(positive, values, 1.0), 1.0 / p), 0.0)


@keras.saving.register_keras_serializable(package="keras_distill")
class HierarchicalContext(DistillationLoss):
    """Mean squared error of feature maps at several resolutions (HCL of ReviewKD).

    `loss = sum_l w_l mean((pool_l(student) - pool_l(teacher))^2) / sum_l w_l`. It compares the maps
    as they are (`w = 1`), and averaged down to each level `l` x `l` that is smaller. Each level has
    half the weight of the one before. The losses of several maps are summed.
    `projectors.ReviewMechanism` makes the student's maps.

    Args:
        levels: the sizes to average down to. Defaults to `(4, 2, 1)`.
        name: the loss's name. Defaults to `"hierarchical_context"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's feature maps, (batch, height, width, channels), one or a list.
        y_pred: the student's, of the same shapes.

    Returns:
        One value per example: (batch,).

    Raises:
        ValueError: when called, if there are not as many maps on both sides.

    Example:

    ```python
    review = projectors.ReviewMechanism(channels=[16, 32], sizes=[8, 4], hidden=16)
    blocks = ["block_1", "block_2"]
    Term(losses.HierarchicalContext(), student=blocks, teacher=blocks, projector=review)
    ```

    Reference:
        - [Chen et al., 2021](https://arxiv.org/abs/2104.09044)
    """

    config = ("levels",)

    def __init__(self, levels: Sequence[int] = (4, 2, 1), **kwargs):
        super().__init__(**kwargs)
        self.levels = tuple(levels)

    def call(self, y_true, y_pred):
        pairs = zip(*pairs_of(self, y_true, y_pred))
        return sum(self._pair(student - teacher) for teacher, student in pairs)

    def _pair(self, difference):  # pooling is linear, so the difference is pooled once
        total, weight, weights = _mean_square(difference), 1.0, 1.0
        for level in self.levels:
            if level < difference.shape[1]:
                weight = weight / 2
                pooled = adaptive_average_pool(difference, (level, level))
                total, weights = total + weight * _mean_square(pooled), weights + weight
        return total / weights


@keras.saving.register_keras_serializable(package="keras_distill")
class SemanticCalibration(DistillationLoss):
    """Mean squared errors between all pairs of layers, weighed by attention (SemCKD).

    `loss = sum_ij attention_ij * mean((student_ij - teacher_j)^2) / layers`, summed over the
    student's layers `i` and the teacher's layers `j`. The projector `projectors.SemanticAttention`
    computes the attention. It also brings each of the student's layers to the channels of each of
    the teacher's. `recipes.semckd` joins both.

    Args:
        name: the loss's name. Defaults to `"semantic_calibration"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: a list of the teacher's T feature maps, each (batch, height, width, channels).
        y_pred: a list of the attention (batch, S, T), then S * T feature maps, with those of the
            student's first layer first. The larger map of a pair is averaged down.

    Returns:
        One value per example: (batch,).

    Raises:
        ValueError: when called, if the number of maps does not fit the attention.

    Example:

    ```python
    # attention (batch, 1, 2) over the pairs of one student layer and two teacher layers
    attention, maps = np.full((4, 1, 2), 0.5), np.random.rand(4, 2, 2, 8)
    losses.SemanticCalibration()([maps, maps], [attention, maps, maps])
    ```

    Reference:
        - [Chen et al., 2020](https://arxiv.org/abs/2012.03236)
    """

    same_shape = False

    def call(self, y_true, y_pred):
        attention, *students = y_pred
        layers, targets = attention.shape[1:]
        if len(y_true) != targets or len(students) != layers * targets:
            raise ValueError(
                f"`{self.name}` with an attention of shape {tuple(attention.shape)} needs "
                f"{targets} feature maps of the teacher and {layers * targets} of the student. "
                f"Received: {len(y_true)} and {len(students)}"
            )
        pairs = (matched(*pair) for pair in zip(list(y_true) * layers, students))
        errors = [_mean_square(student - teacher) for teacher, student in pairs]
        return ops.sum(ops.stack(errors, axis=-1) * flat(attention), axis=-1) / layers


def _mean_square(difference):
    return ops.mean(ops.square(flat(difference)), axis=-1)
