"""Logs how near the student is to its teacher at each epoch's end."""

import warnings
from typing import Any

import keras
import numpy as np

from keras_distill import taps
from keras_distill._keras.layers import as_logits
from keras_distill.batch import Batch
from keras_distill.training.weights import product


class TeacherAgreement(keras.callbacks.Callback):
    """Logs the student's agreement with a teacher and its KL divergence to it.

    `evaluate` runs no teacher. This callback runs it on its own data, and logs
    `teacher_agreement = mean(argmax teacher == argmax student)` and
    `teacher_kl = mean(sum_c p_teacher (log p_teacher - log p_student))` at temperature 1. Both are
    means over examples or tokens, weighted by sample weights and the student's Keras mask.

    Args:
        data: a batched `tf.data.Dataset` of `x`, `(x, y)` or `(x, y, sample_weight)`, `y` being
            class ids. Do not shuffle it between epochs. With labels, the callback warns if the
            teacher is no better than the student.
        source: the teacher's name. Defaults to `"teacher"`.
        student: the student's path to logits. Defaults to `"output"`.
        teacher: the teacher's path to logits. Defaults to `"output"`.

    Raises:
        ValueError: before the first step, if the source, a path or the data do not fit, or the
            distiller has `fused_head=True`.

    Example:

    ```python
    held_out = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    agreement = callbacks.TeacherAgreement(held_out)
    distiller = Distiller(student, teacher=teacher)
    distiller.compile("adam", loss)
    history = distiller.fit(x, y, callbacks=[agreement]).history
    history["teacher_agreement"], history["teacher_kl"]
    ```
    """

    def __init__(
        self,
        data: Any,
        *,
        source: str = "teacher",
        student: str = "output",
        teacher: str = "output",
    ):
        super().__init__()
        self.data, self.source = data, source
        self.paths = student, teacher

    def on_train_begin(self, logs=None):
        objective = getattr(self.model, "objective", None)
        teachers = {} if objective is None else objective.teachers
        if self.source not in teachers:
            raise ValueError(
                "`TeacherAgreement` must read one of the distiller's sources. There are: "
                f"{', '.join(teachers) or 'none (the model is not a `Distiller`)'}. Received: "
                f"source={self.source!r}"
            )
        if not self.model.objective.gives_logits:
            raise ValueError(
                "`TeacherAgreement` compares logits, which `fused_head=True` never computes. Add a "
                "term to the distiller instead, whose value is logged."
            )
        for batch in self.data:
            self._compare(Batch.unpack(batch))  # errors come before the first step
            break

    def on_epoch_end(self, epoch, logs=None):
        rows = [self._compare(Batch.unpack(batch)) for batch in self.data]
        if not rows:
            raise ValueError("`data` of `TeacherAgreement` must hold at least one batch.")
        weights, *values = (np.concatenate(parts) for parts in zip(*rows))
        if not weights.any():
            raise ValueError("`data` of `TeacherAgreement` must have a row with a weight above 0.")
        agreement, divergence, *correct = (np.average(each, weights=weights) for each in values)
        if logs is not None:
            logs["teacher_agreement"] = float(agreement)
            logs["teacher_kl"] = float(divergence)
        if correct and correct[0] <= correct[1]:
            warnings.warn(
                "The teacher is no better than the student. On the data of `TeacherAgreement` the "
                f"teacher's accuracy is {correct[0]:.4f}, the student's {correct[1]:.4f}.",
                stacklevel=2,
            )

    def _compare(self, batch):
        student, teacher = self.paths
        distiller = self.model
        features = taps.run(
            distiller.student, distiller.objective.inputs(batch.x), ["output", student]
        )
        targets = distiller.teachers[self.source].targets(batch, features, [teacher])
        log_s, log_t = (_log_softmax(t) for t in (features[student], targets[teacher]))
        agree = log_t.argmax(-1) == log_s.argmax(-1)
        divergence = (np.exp(log_t) * (log_t - log_s)).sum(-1)
        weights = product(("sample_weight",), student, features[student], batch, "TeacherAgreement")
        weights = np.ones(agree.shape) if weights is None else np.asarray(weights)
        weights = weights.reshape(weights.shape + (1,) * (agree.ndim - weights.ndim))
        weights = np.broadcast_to(weights, agree.shape)
        rows = [weights, agree, divergence]
        labels = None if batch.labels is None else np.asarray(batch.labels)
        if labels is not None and labels.shape == (*agree.shape, 1):
            labels = labels[..., 0]
        if labels is not None and labels.shape == agree.shape:
            rows += [log_t.argmax(-1) == labels, log_s.argmax(-1) == labels]
        return [row[weights != 0] for row in rows]  # values without weight may be NaN


def _log_softmax(tensor):
    logits = keras.ops.cast(as_logits(tensor), "float32")
    return np.maximum(keras.ops.convert_to_numpy(keras.ops.log_softmax(logits, axis=-1)), -1e30)
