"""Metrics of outputs: how often both sides agree, and how far they are apart."""

import keras
from keras import ops

from keras_distill.losses.answers import agreement, divergence


class _MeanOverRows(keras.metrics.Mean):
    """The weighted mean of a value for each row of two sides."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch.

        Args:
            y_true: the teacher's logits, (batch, ..., classes).
            y_pred: the student's logits, of the same shape.
            sample_weight: non-negative weights, (batch,) or (batch, ...); rows of weight zero may
                hold anything. Defaults to `None`, which counts each row once.
        """
        y_true, y_pred = (ops.cast(ops.convert_to_tensor(y), self.dtype) for y in (y_true, y_pred))
        if len(y_true.shape) != len(y_pred.shape) or y_true.shape[-1] != y_pred.shape[-1]:
            raise ValueError(
                f"`{self.name}` compares logits of the same shape. Received: teacher "
                f"{tuple(y_true.shape)}, student {tuple(y_pred.shape)}."
            )
        values = self.of_rows(y_true, y_pred)
        if sample_weight is not None:
            sample_weight = _for_each(sample_weight, values)
            values = ops.where(sample_weight > 0, values, 0.0)
        super().update_state(values, sample_weight)


def _for_each(weights, values):
    """Returns weights (batch,) or (batch, ..., 1) as one weight for each value."""
    weights = ops.cast(ops.convert_to_tensor(weights), values.dtype)
    if len(weights.shape) == len(values.shape) + 1 and weights.shape[-1] == 1:
        weights = ops.squeeze(weights, axis=-1)
    while len(weights.shape) < len(values.shape):
        weights = ops.expand_dims(weights, axis=-1)
    return ops.broadcast_to(weights, ops.shape(values))


@keras.saving.register_keras_serializable(package="keras_distill")
class Agreement(_MeanOverRows):
    """Measures how often student and teacher have the same most probable class.

    `agreement = mean over rows of [argmax teacher = argmax student]`, weighted.

    Args:
        name: the metric's name. Defaults to `"agreement"`.
        dtype: the dtype of the result. Defaults to `keras.config.floatx()`.

    Returns:
        `result()`: a scalar in [0, 1].

    Raises:
        ValueError: when updated, if the two sides have not as many classes.

    Example:

    ```python
    metric = metrics.Agreement()
    for images, _ in dataset:
        metric.update_state(teacher(images), student(images))
    print(float(metric.result()))
    ```

    Reference:
        - [Stanton et al., 2021](https://arxiv.org/abs/2106.05945)
    """

    def __init__(self, name: str | None = "agreement", dtype: str | None = None):
        super().__init__(name=name, dtype=dtype)

    def of_rows(self, y_true, y_pred):
        return agreement(y_true, y_pred)


@keras.saving.register_keras_serializable(package="keras_distill")
class KLToTeacher(_MeanOverRows):
    """The Kullback-Leibler divergence from the teacher to the student at temperature 1.

    `kl = mean over rows of sum_c p_teacher(c) log(p_teacher(c) / p_student(c))` with
    `p = softmax(logits)`, weighted, in nats.

    Args:
        name: the metric's name. Defaults to `"kl_to_teacher"`.
        dtype: the dtype of the result. Defaults to `keras.config.floatx()`.

    Returns:
        `result()`: a scalar, non-negative.

    Raises:
        ValueError: when updated, if the two sides have not as many classes.

    Example:

    ```python
    metric = metrics.KLToTeacher()
    metric.update_state(teacher(x), student(x))
    ```

    Reference:
        - [Hinton et al., 2015](https://arxiv.org/abs/1503.02531)
    """

    def __init__(self, name: str | None = "kl_to_teacher", dtype: str | None = None):
        super().__init__(name=name, dtype=dtype)

    def of_rows(self, y_true, y_pred):
        return divergence(y_true, y_pred)
