"""Losses for outputs that are quantities."""

import keras
from keras import ops

from keras_distill.losses.distillation_loss import DistillationLoss
from keras_distill.schedules import check


@keras.saving.register_keras_serializable(package="keras_distill")
class TeacherBoundedRegression(DistillationLoss):
    """Squared error with the label, while the student is worse than the teacher.

    `loss = |student - label|^2` where `|student - label|^2 + margin > |teacher - label|^2`, else 0.
    The teacher is no target but a bound: once the student is better, the loss is 0.

    Args:
        margin: by how much the student must be better, non-negative, in squared units of the label.
            Defaults to `0.0`.
        name: the loss's name. Defaults to `"teacher_bounded_regression"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's values, (batch, ..., width).
        y_pred: the student's values, of the same shape.
        labels: of the same shape, or without the last axis where `width` is 1.

    Returns:
        One value per example or token: (batch, ...).

    Raises:
        ValueError: for a negative `margin`, or labels of another shape.

    Example:

    ```python
    # a regression model and its teacher; `fit` must be given labels
    Term(losses.TeacherBoundedRegression(margin=0.1))
    ```

    Reference:
        - [Chen et al., 2017](https://papers.nips.cc/paper/6676-learning-efficient-object-detection-models-with-knowledge-distillation)
    """

    needs = ("labels",)
    config = ("margin",)

    def __init__(self, margin: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.margin = float(check("margin", margin, low=0))

    def call(self, y_true, y_pred, labels=None):
        labels = self._fitting(labels, y_pred)
        teacher = ops.sum(ops.square(y_true - labels), axis=-1)
        student = ops.sum(ops.square(y_pred - labels), axis=-1)
        return ops.where(student + self.margin > teacher, student, ops.zeros_like(student))

    def _fitting(self, labels, y_pred):
        if labels is not None and len(labels.shape) == len(y_pred.shape) - 1:
            labels = ops.expand_dims(labels, -1)
        if labels is None or len(labels.shape) != len(y_pred.shape) or (
            None not in (labels.shape[-1], y_pred.shape[-1])
            and labels.shape[-1] != y_pred.shape[-1]
        ):  # fmt: skip
            raise ValueError(
                f"`{self.name}` needs `labels` of the student's shape {tuple(y_pred.shape)}. "
                f"Received: {None if labels is None else tuple(labels.shape)}"
            )
        return ops.cast(labels, y_pred.dtype)
