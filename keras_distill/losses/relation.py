"""Losses on the distances and angles between the examples of a batch."""

import keras
from keras import ops

from keras_distill.losses import geometry, masks
from keras_distill.losses.arithmetic import flat, root
from keras_distill.losses.distillation_loss import DistillationLoss, check_variant


@keras.saving.register_keras_serializable(package="keras_distill")
class RelationalDistance(DistillationLoss):
    """Distances between examples, as relational distillation (RKD-D) compares them.

    `loss = mean_{i != j} smooth_l1(d_teacher(i, j) - d_student(i, j))` with
    `d(i, j) = |x_i - x_j| / mean_{k != l} |x_k - x_l|`. The paper sums over the pairs of a batch.
    The mean does not depend on the batch size. For classification the authors' code compares
    embeddings of unit length and gives this loss a weight of 25.

    Args:
        variant: `"paper"` for the mean over pairs of different examples, or `"code"` to divide by
            all `batch^2` pairs, as the authors' code does. Defaults to `"paper"`.
        name: the loss's name. Defaults to `"relational_distance"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's features, (batch, ...).
        y_pred: the student's features, (batch, ...), of any width.
        mask: the examples' weights, (batch,); those with zero weight enter no distance.

    Returns:
        One value per example, the mean over its pairs: (batch,).

    Example:

    ```python
    Term(losses.RelationalDistance(), student="hidden", teacher="hidden", weight=25.0)
    ```

    Reference:
        - [Park et al., 2019](https://arxiv.org/abs/1904.05068)
    """

    needs = ("mask",)
    config = ("variant",)
    same_shape = False
    across_batch = True

    def __init__(self, variant: str = "paper", **kwargs):
        super().__init__(**kwargs)
        self.variant = check_variant(variant)

    def call(self, y_true, y_pred, mask=None):
        present = masks.examples(mask, y_pred)
        pairs = geometry.pairs(present)
        teacher, student = (self._relative(y, present, pairs) for y in (y_true, y_pred))
        others = ops.sum(present) - (1 if self.variant == "paper" else 0)
        deviation = ops.sum(geometry.smooth_l1(teacher - student) * pairs, axis=-1)
        return deviation / masks.at_least_one(others)

    def _relative(self, x, present, pairs):
        """Returns distances in units of their mean."""
        distances = root(geometry.squared_distances(flat(x), present)) * pairs
        mean = ops.sum(distances) / masks.at_least_one(ops.sum(pairs))
        return distances / ops.where(mean > 0, mean, 1.0)


@keras.saving.register_keras_serializable(package="keras_distill")
class RelationalAngle(DistillationLoss):
    """Angles between triples of examples, as relational distillation (RKD-A) compares them.

    `loss = mean_{i, j, k} smooth_l1(a_teacher(i, j, k) - a_student(i, j, k))` with the cosine of
    the angle at `i`, `a(i, j, k) = <e(i, j), e(i, k)>`, `e(i, j) = (x_j - x_i) / |x_j - x_i|`. The
    paper sums over the triples of a batch. The mean does not depend on the batch size. For
    classification the authors' code compares embeddings of unit length and gives this loss a weight
    of 50.

    All triples of a large batch do not fit into memory. With more than `chunk` examples the loss
    computes the angles at `chunk` examples at a time, and again for the gradient. That takes memory
    for `chunk * batch^2` numbers.

    Args:
        variant: `"paper"` for the mean over triples of different examples, or `"code"` to divide
            by all `batch^3` triples, as the authors' code does. Defaults to `"paper"`.
        chunk: at how many examples to compute angles at a time. Defaults to `64`.
        name: the loss's name. Defaults to `"relational_angle"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's features, (batch, ...).
        y_pred: the student's features, (batch, ...), of any width.
        mask: the examples' weights, (batch,); those with zero weight enter no angle.

    Returns:
        One value per example, the mean over the angles at it: (batch,).

    Raises:
        ValueError: if `chunk` is not positive.

    Example:

    ```python
    Term(losses.RelationalAngle(), student="hidden", teacher="hidden", weight=50.0)
    ```

    Reference:
        - [Park et al., 2019](https://arxiv.org/abs/1904.05068)
    """

    needs = ("mask",)
    config = ("variant", "chunk")
    same_shape = False
    across_batch = True

    def __init__(self, variant: str = "paper", chunk: int = 64, **kwargs):
        super().__init__(**kwargs)
        if chunk < 1:
            raise ValueError(f"`chunk` must be positive. Received: chunk={chunk}")
        self.variant, self.chunk = check_variant(variant), chunk

    def call(self, y_true, y_pred, mask=None):
        present = masks.examples(mask, y_pred)
        sides = [geometry.squared_distances(flat(y), present) for y in (y_true, y_pred)]

        def deviation(teacher, student, *anchors):
            return _deviation(present, teacher, student, *anchors)

        total = geometry.over_anchors(deviation, sides, self.chunk)
        count = ops.sum(present)
        angles = (count - 1) * (count - 2) if self.variant == "paper" else count * count
        return total / masks.at_least_one(angles)


def _deviation(present, teacher, student, teacher_anchors, student_anchors):
    """Returns the distance between the angles at each anchor, summed over all pairs of examples."""
    expected = ops.stop_gradient(_cosines(teacher, teacher_anchors))
    apart = geometry.smooth_l1(expected - _cosines(student, student_anchors))
    both = ops.expand_dims(present, 0) * ops.expand_dims(present, 1)
    return ops.sum(apart * both, axis=(1, 2))


def _cosines(squares, anchors):
    """Returns cosines of the angles at each anchor, or 0 if a side of the angle has no length.

    Args:
        squares: squared distances of all pairs, (batch, batch).
        anchors: the rows of the examples whose angles to compute, (anchors, batch).

    Returns:
        `(d_ij^2 + d_ik^2 - d_jk^2) / (2 d_ij d_ik)`, (anchors, batch, batch).
    """
    apart = anchors > 0
    lengths = ops.sqrt(ops.where(apart, anchors, 1.0))
    inverse = ops.where(apart, 1.0 / lengths, 0.0)
    one, other = ops.expand_dims(anchors, 2), ops.expand_dims(anchors, 1)
    product = 0.5 * (one + other - ops.expand_dims(squares, 0))
    cosines = product * ops.expand_dims(inverse, 2) * ops.expand_dims(inverse, 1)
    return ops.clip(cosines, -1.0, 1.0)  # rounding matters where examples nearly coincide
