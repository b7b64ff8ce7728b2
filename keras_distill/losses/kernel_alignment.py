"""Centered kernel alignment: how alike two representations of the same examples are."""

from typing import Any

import keras
from keras import ops

from keras_distill.losses import geometry, masks
from keras_distill.losses.arithmetic import flat, unit
from keras_distill.losses.distillation_loss import DistillationLoss, one_of

KERNELS = ("linear", "rbf")


def cka(x: Any, y: Any, kernel: str = "linear", mask: Any = None) -> Any:
    """Returns how alike two representations are, from 0 to 1, by centered kernel alignment.

    `cka = <H K H, H L H> / (|H K H| |H L H|)` with the kernels `K` of `x` and `L` of `y` and
    `H = 1 - 1 / n`. It does not change with rotations and scaling of either side.

    Args:
        x: features, (batch, ...).
        y: features of the same examples, (batch, ...), of any width.
        kernel: `"linear"` for dot products, or `"rbf"` for `exp(-d^2 / (2 m))`, where `m` is the
            median of the squared distances that are not zero. Defaults to `"linear"`.
        mask: the examples' weights, (batch,); those with zero weight do not count.

    Returns:
        A scalar in [0, 1]; 0 where all examples of one side are the same.

    Raises:
        ValueError: for an unknown `kernel`.

    Example:

    ```python
    features = np.random.rand(16, 8)
    metrics.cka(features, 2.0 * features)  # 1.0: neither scale nor rotation counts
    ```

    Reference:
        - [Kornblith et al., 2019](https://arxiv.org/abs/1905.00414)
    """
    x, y = ops.convert_to_tensor(x), ops.convert_to_tensor(y)
    present = masks.examples(mask, x)
    one, other = (_centered(_kernel(side, kernel, present), present) for side in (x, y))
    return ops.sum(one * other)


def _kernel(x, kernel, present):
    one_of("kernel", kernel, KERNELS)
    x = flat(x)
    if kernel == "linear":
        return geometry.products(geometry.centred(x, present))
    square = geometry.squared_distances(x, present)
    return ops.exp(-square / (2 * _median(square, geometry.pairs(present))))


def _median(square, pairs):
    """Returns the median of the distances of pairs that are apart, or 1 if there are none."""
    apart = (square > 0) & (pairs > 0)
    values = ops.sort(ops.reshape(ops.where(apart, square, float("inf")), (-1,)))
    count = ops.sum(ops.cast(apart, "int32"))
    middle = ops.maximum(ops.stack([(count - 1) // 2, count // 2]), 0)
    median = ops.mean(ops.take(values, middle))
    return ops.where(count > 0, median, 1.0)


def _centered(kernel, present):
    """Returns the kernel of the deviations from the mean, scaled to unit length."""
    count = masks.at_least_one(ops.sum(present))
    both = ops.expand_dims(present, 0) * ops.expand_dims(present, 1)
    rows = ops.sum(kernel * both, axis=0) / count
    deviation = kernel - ops.expand_dims(rows, 0) - ops.expand_dims(rows, 1)
    deviation = deviation + ops.sum(rows * present) / count
    return unit(ops.reshape(deviation * both, (-1,)))


@keras.saving.register_keras_serializable(package="keras_distill")
class CenteredKernelAlignment(DistillationLoss):
    """One minus the centered kernel alignment of two representations.

    `loss = 1 - cka(teacher, student)`, see `cka`.

    Args:
        kernel: `"linear"` or `"rbf"`. Defaults to `"linear"`.
        name: the loss's name. Defaults to `"centered_kernel_alignment"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's features, (batch, ...).
        y_pred: the student's features, (batch, ...), of any width.
        mask: the examples' weights, (batch,); those with zero weight do not count.

    Returns:
        The batch's loss, repeated for every example: (batch,).

    Raises:
        ValueError: for an unknown `kernel`.

    Example:

    ```python
    Term(losses.CenteredKernelAlignment(), student="block_2", teacher="block_2")
    ```

    Reference:
        - [Kornblith et al., 2019](https://arxiv.org/abs/1905.00414)
    """

    needs = ("mask",)
    config = ("kernel",)
    same_shape = False
    across_batch = True

    def __init__(self, kernel: str = "linear", **kwargs):
        super().__init__(**kwargs)
        self.kernel = one_of("kernel", kernel, KERNELS)

    def call(self, y_true, y_pred, mask=None):
        apart = 1.0 - cka(y_true, y_pred, self.kernel, mask)
        return ops.broadcast_to(apart, ops.shape(y_pred)[:1])
