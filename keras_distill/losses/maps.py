"""Losses on feature maps whose channels, and in part whose sizes, may differ."""

import keras
from keras import ops

from keras_distill.losses.arithmetic import adaptive_average_pool, flat, length, matched, unit
from keras_distill.losses.distillation_loss import DistillationLoss, check_variant
from keras_distill.losses.features import check_channels


@keras.saving.register_keras_serializable(package="keras_distill")
class AttentionTransfer(DistillationLoss):
    """Distance between spatial attention maps; the numbers of channels may differ.

    `loss = |q(student) - q(teacher)|` with `q(maps) = a / |a|`, `a = mean_c |maps_c|^p` as one
    vector over all positions. The larger map is averaged down to the smaller one's size.

    Args:
        p: the power, at least 1. Defaults to `2`.
        variant: `"paper"`, or `"code"` as in the authors' code and RepDistiller's. That takes the
            mean over positions of the squared difference in place of the distance, and
            `a = mean_c maps_c^p`, so that features keep their sign for an odd `p`. Defaults to
            `"paper"`.
        name: the loss's name. Defaults to `"attention_transfer"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's feature maps, (batch, height, width, channels).
        y_pred: the student's feature maps; size and channels may differ.

    Returns:
        One value per example: (batch,).

    Raises:
        ValueError: if `p` is less than 1, or not whole with `variant="code"`.

    Example:

    ```python
    Term(losses.AttentionTransfer(), student="block_2", teacher="block_2", weight=1000.0)
    ```

    Reference:
        - [Zagoruyko and Komodakis, 2016](https://arxiv.org/abs/1612.03928)
    """

    config = ("p", "variant")
    same_shape = False

    def __init__(self, p: int = 2, variant: str = "paper", **kwargs):
        super().__init__(**kwargs)
        self.p, self.variant = p, check_variant(variant)
        if p < 1 or (variant == "code" and p != int(p)):
            raise ValueError(
                f'`p` must be at least 1, and an integer if `variant="code"`. Received: p={p}'
            )

    def call(self, y_true, y_pred):
        y_true, y_pred = matched(y_true, y_pred)
        difference = self._attention(y_pred) - self._attention(y_true)
        if self.variant == "code":
            return ops.mean(ops.square(difference), axis=-1)
        return length(difference)

    def _attention(self, maps):
        maps = maps if self.variant == "code" else ops.abs(maps)
        return unit(flat(ops.mean(ops.power(maps, self.p), axis=-1)))


@keras.saving.register_keras_serializable(package="keras_distill")
class NeuronSelectivity(DistillationLoss):
    """Distance between the distributions of neurons' spatial patterns (NST).

    `loss = mean k(t, t') + mean k(s, s') - 2 mean k(s, t)`, the squared maximum mean discrepancy
    over all pairs of channels, with `k(a, b) = (a . b)^degree` on channel maps of length one.
    The larger map is averaged down to the smaller one's size.

    Args:
        degree: the degree of the polynomial kernel, a whole number. Defaults to `2`, as in
            RepDistiller.
        name: the loss's name. Defaults to `"neuron_selectivity"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's feature maps, (batch, height, width, channels).
        y_pred: the student's feature maps; size and channels may differ.

    Returns:
        One value per example: (batch,).

    Raises:
        ValueError: if `degree` is not a whole number of at least 1.

    Example:

    ```python
    Term(losses.NeuronSelectivity(), student="block_2", teacher="block_2", weight=50.0)
    ```

    Reference:
        - [Huang and Wang, 2017](https://arxiv.org/abs/1707.01219)
    """

    config = ("degree",)
    same_shape = False

    def __init__(self, degree: int = 2, **kwargs):
        super().__init__(**kwargs)
        if degree < 1 or degree != int(degree):
            raise ValueError(f"`degree` must be a positive integer. Received: degree={degree}")
        self.degree = int(degree)

    def call(self, y_true, y_pred):
        teacher, student = (_patterns(maps) for maps in matched(y_true, y_pred))
        same = self._kernel(teacher, teacher) + self._kernel(student, student)
        return same - 2.0 * self._kernel(student, teacher)

    def _kernel(self, one, other):
        products = ops.matmul(one, ops.transpose(other, (0, 2, 1)))
        return ops.mean(ops.power(products, self.degree), axis=(1, 2))


def _patterns(maps):
    """Returns every channel as a vector of length one: (batch, channels, positions)."""
    return unit(ops.transpose(_positions(maps), (0, 2, 1)))


def _positions(maps):
    """Returns the maps as (batch, positions, channels)."""
    height, width, channels = maps.shape[1:]
    return ops.reshape(maps, (-1, height * width, channels))


@keras.saving.register_keras_serializable(package="keras_distill")
class FlowOfSolutionProcedure(DistillationLoss):
    """Squared distance between the products of two layers' channels (FSP).

    `loss = sum_ij (G_student - G_teacher)_ij^2` with `G_ij = mean_x first_i(x) second_j(x)` over
    positions `x`. For more than two maps it sums over consecutive pairs. The larger map of a pair
    is averaged down to the size of the smaller one (the paper takes maxima).

    Args:
        variant: `"paper"`, or `"code"` for the mean over the matrix's entries in place of their
            sum, as in RepDistiller. Defaults to `"paper"`.
        name: the loss's name. Defaults to `"flow_of_solution_procedure"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: a list of two or more of the teacher's feature maps, in order: each (batch,
            height, width, channels).
        y_pred: a list of as many maps of the student, with the same channels.

    Returns:
        One value per example: (batch,).

    Raises:
        ValueError: when called, if the sides have different numbers of maps, or fewer than two.

    Example:

    ```python
    pair = ["block_1", "block_2"]
    Term(losses.FlowOfSolutionProcedure(), student=pair, teacher=pair)
    ```

    Reference:
        - [Yim et al., 2017](https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html)
    """

    config = ("variant",)
    same_shape = False

    def __init__(self, variant: str = "paper", **kwargs):
        super().__init__(**kwargs)
        self.variant = check_variant(variant)

    def call(self, y_true, y_pred):
        y_true, y_pred = pairs_of(self, y_true, y_pred, least=2)
        over = ops.mean if self.variant == "code" else ops.sum
        total = 0.0
        for teacher, student in zip(_flows(y_true), _flows(y_pred)):
            total = total + over(ops.square(student - teacher), axis=(1, 2))
        return total


def _flows(maps):
    """Returns products of channels of consecutive maps, each (batch, channels, next channels)."""
    for first, second in zip(maps, maps[1:]):
        first, second = (_positions(each) for each in matched(first, second))
        yield ops.matmul(ops.transpose(first, (0, 2, 1)), second) / first.shape[1]


@keras.saving.register_keras_serializable(package="keras_distill")
class ClassAttentionTransfer(DistillationLoss):
    """Squared error between class activation maps, pooled and normalized (CAT-KD).

    `loss = mean((student - teacher)^2)` over classes and positions. Both maps are first averaged
    down to `resolution` x `resolution`, then divided by their length for each class. Tap the 1x1
    convolution before the global average pooling, which has a channel for each class.

    Args:
        resolution: the pooled maps' height and width. Defaults to `2`.
        normalize: whether to divide every pooled map by its length. Defaults to `True`.
        name: the loss's name. Defaults to `"class_attention_transfer"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's class activation maps, (batch, height, width, classes).
        y_pred: the student's; its size may differ.

    Returns:
        One value per example: (batch,).

    Raises:
        ValueError: if `resolution` is not positive; when called, if the classes differ.

    Example:

    ```python
    # the layer before the pooling has a channel for each class
    Term(losses.ClassAttentionTransfer(), student="block_2", teacher="block_2")
    ```

    Reference:
        - [Guo et al., 2023](https://arxiv.org/abs/2304.12777)
    """

    config = ("resolution", "normalize")
    same_shape = False

    def __init__(self, resolution: int = 2, normalize: bool = True, **kwargs):
        super().__init__(**kwargs)
        if not resolution >= 1:
            raise ValueError(f"`resolution` must be positive. Received: resolution={resolution}")
        self.resolution, self.normalize = resolution, normalize

    def call(self, y_true, y_pred):
        check_channels(self, y_true, y_pred)
        difference = self._pooled(y_pred) - self._pooled(y_true)
        return ops.mean(ops.square(difference), axis=(1, 2, 3))

    def _pooled(self, maps):
        maps = adaptive_average_pool(maps, (self.resolution, self.resolution))
        return unit(maps, axis=(1, 2)) if self.normalize else maps


def pairs_of(loss, y_true, y_pred, least=1):
    """Returns lists of as many maps on each side; a tensor becomes a list of one."""
    y_true, y_pred = (list(s) if isinstance(s, (list, tuple)) else [s] for s in (y_true, y_pred))
    if len(y_true) != len(y_pred) or len(y_pred) < least:
        raise ValueError(
            f"`{loss.name}` needs the same number of feature maps from student and teacher, at "
            f"least {least}. Received: {len(y_true)} of the teacher, {len(y_pred)} of the student"
        )
    for teacher, student in zip(y_true, y_pred):
        check_channels(loss, teacher, student)
    return y_true, y_pred
