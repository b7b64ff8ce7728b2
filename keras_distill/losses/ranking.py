"""Losses on the order of the teacher's likeliest classes."""

import keras
from keras import ops

from keras_distill.batch import TopK
from keras_distill.losses import masks
from keras_distill.losses.arithmetic import at_least
from keras_distill.losses.distillation_loss import DistillationLoss
from keras_distill.losses.softened import LOWEST
from keras_distill.schedules import check


class PairwiseLoss(DistillationLoss):
    """A loss on pairs of classes of which the teacher prefers the first.

    A subclass writes `scores(y_pred)`, the score of each class, and `losses(gap, teacher_gap)`, the
    loss of each pair."""

    needs = ("mask",)
    expects_logits = True
    across_batch = True
    takes_top_k = True
    floor = 1e-9  # the teacher's smaller probabilities, and smaller gaps, do not count

    def call(self, y_true, y_pred, mask=None):
        scores = self.scores(y_pred)
        if isinstance(y_true, TopK):
            teacher = ops.exp(y_true.log_probs)
            scores = ops.take_along_axis(scores, ops.cast(y_true.ids, "int32"), axis=-1)
        else:
            teacher = ops.softmax(y_true, axis=-1)
        teacher_gap = _gaps(teacher)
        preferred = (teacher_gap > self.floor) & (teacher[..., None] > self.floor)
        preferred &= teacher[..., None, :] > self.floor
        gap = ops.where(preferred, _gaps(scores), 0.0)
        losses = ops.where(preferred, self.losses(gap, teacher_gap), 0.0)
        return _per_pair(ops.sum(losses, axis=(-2, -1)), preferred, mask)


def _gaps(values):
    return values[..., :, None] - values[..., None, :]


def _per_pair(values, preferred, mask):
    """Scales values so that the weighted mean over rows is the mean over pairs."""
    pairs = ops.sum(ops.cast(preferred, values.dtype), axis=(-2, -1))
    weights = masks.positions(mask, values[..., None])
    if mask is not None:
        while len(mask.shape) < len(weights.shape):
            mask = ops.expand_dims(mask, -1)
        weights = weights * ops.cast(mask, weights.dtype)
    weighed, total = ops.sum(weights * pairs), ops.sum(weights)
    return ops.where(weighed > 0, values * total / ops.where(weighed > 0, weighed, 1.0), 0.0)


@keras.saving.register_keras_serializable(package="keras_distill")
class LogisticRanking(PairwiseLoss):
    """Logistic loss on the order in which the teacher puts its classes.

    `loss = mean over pairs (a, b) with p_teacher(a) > p_teacher(b) of
    log(1 + exp(z_student(b) - z_student(a)))`, of the student's raw logits `z`. The mean is over
    the pairs of the whole batch. Memory grows with the square of the classes compared.

    Args:
        name: the loss's name. Defaults to `"logistic_ranking"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's `TopK`, whose `k` classes are compared, or its logits, (batch, ...,
            classes), to compare all classes.
        y_pred: the student's logits, (batch, ..., classes).
        mask: the weights of examples or tokens.

    Returns:
        One value per example or token: (batch, ...).

    Example:

    ```python
    Term(losses.LogisticRanking())
    ```

    Reference:
        - [Burges et al., 2005](https://www.microsoft.com/en-us/research/publication/learning-to-rank-using-gradient-descent/)
        - [DistillKit](https://github.com/arcee-ai/DistillKit)
    """

    def scores(self, y_pred):
        return at_least(y_pred, LOWEST)

    def losses(self, gap, teacher_gap):
        return ops.softplus(-gap)


@keras.saving.register_keras_serializable(package="keras_distill")
class HingeRanking(PairwiseLoss):
    """Hinge loss on the order in which the teacher puts its classes.

    `loss = mean over pairs (a, b) with p_teacher(a) > p_teacher(b) of
    max(0, margin - (p_student(a) - p_student(b)))`. The mean is over the pairs of the whole
    batch. Memory grows with the square of the classes compared.

    Args:
        margin: the least gap that the student must reach, in [0, 1]. `None` takes the teacher's own
            gap of each pair. Defaults to `None`.
        name: the loss's name. Defaults to `"hinge_ranking"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's `TopK`, whose `k` classes are compared, or its logits, (batch, ...,
            classes), to compare all classes.
        y_pred: the student's logits, (batch, ..., classes).
        mask: the weights of examples or tokens.

    Returns:
        One value per example or token: (batch, ...).

    Raises:
        ValueError: if `margin` is not in [0, 1].

    Example:

    ```python
    Term(losses.HingeRanking(margin=0.1))
    ```

    Reference:
        - [DistillKit](https://github.com/arcee-ai/DistillKit)
    """

    config = ("margin",)

    def __init__(self, margin: float | None = None, **kwargs):
        super().__init__(**kwargs)
        self.margin = None if margin is None else float(check("margin", margin, low=0, high=1))

    def scores(self, y_pred):
        return ops.softmax(y_pred, axis=-1)

    def losses(self, gap, teacher_gap):
        return ops.relu((teacher_gap if self.margin is None else self.margin) - gap)
