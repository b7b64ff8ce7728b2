"""A teacher that is a moving average of the student."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_distill import _backend, schedules
from keras_distill._keras.adapted import copy_adapted
from keras_distill.schedules import Hyperparameter
from keras_distill.teachers.model_teacher import ModelTeacher
from keras_distill.teachers.teacher import Teacher


class EMATeacher(Teacher):
    """The exponential moving average of the student's weights: a mean teacher.

    `w_teacher <- m * w_teacher + (1 - m) * w_student` after each update.

    A `Distiller` that gets this teacher copies the student. All weights of the copy move,
    including batch statistics. The copy runs in inference mode. It is part of the distiller's
    checkpoints, with the number of steps, so a run that resumes at the end of an epoch continues
    exactly. It is not saved with the student. Save it with `teacher.model.save(path)`.

    Args:
        momentum: `m` in [0, 1], a number or a schedule of the number of steps, counted from 0.
            Defaults to `0.999`.
        model: the model that becomes the copy, for a student that Keras cannot copy. It must be
            built, and have the student's weights in the same order. Defaults to `None`, so that
            Keras copies the student.
        preprocess: as in `ModelTeacher`.

    Raises:
        ValueError: if `momentum` is not in [0, 1]; when a distiller takes it, if the student is
            not built, cannot be copied, or already has this teacher's copy.

    Example:

    ```python
    teacher = EMATeacher(momentum=0.99)
    distiller = Distiller(student, teacher=teacher)
    distiller.compile("adam", loss)
    distiller.fit(x, y)
    teacher.model.save("mean_teacher.keras")
    ```

    Reference:
        - [Tarvainen and Valpola, 2017](https://arxiv.org/abs/1703.01780)
    """

    def __init__(
        self,
        momentum: Hyperparameter = 0.999,
        *,
        model: keras.Model | None = None,
        preprocess: Callable[[Any], Any] | None = None,
    ):
        self.momentum = schedules.check("momentum", momentum, low=0, high=1)
        self.model, self.preprocess = model, preprocess
        self._count = self._answers = None

    @property
    def state(self):
        """The copy and the number of updates."""
        return () if self._count is None else (self.model, self._count)

    @property
    def step(self):
        """The number of updates that the copy has followed, a variable; `None` before it exists."""
        return None if self._count is None else self._count.steps

    def begin(self, student):
        if self._count is not None:
            raise ValueError("This `EMATeacher` already follows a student. Make another one.")
        if not student.built:
            raise ValueError("The student of an `EMATeacher` must be built. Call it on a batch.")
        with _backend.scope_of(student):
            self._follow(student)

    def _follow(self, student):
        self.model = _copy(student) if self.model is None else self.model
        _check_alike(self.model, student)
        self.model.set_weights(student.get_weights())
        copy_adapted(self.model, student)
        self.model.trainable = False
        self._count = _Count(name="ema_count")
        self._count.build()
        self._answers = ModelTeacher(self.model, preprocess=self.preprocess)
        pairs = zip(self.model.variables, student.variables)
        self._pairs = [(copy, own) for copy, own in pairs if "float" in str(copy.dtype)]

    def has(self, path):
        return self._answers.has(path)

    def models(self):
        return () if self.model is None else (self.model,)

    def describe(self):
        return f"moving average of the student, momentum {schedules.described(self.momentum)}"

    def targets(self, batch, features, paths):
        return self._answers.targets(batch, features, paths)

    def update(self, student, updated=True):
        steps = self.step
        momentum = ops.cast(
            schedules.value_at(self.momentum, ops.convert_to_tensor(steps)), "float32"
        )
        if updated is not True:
            momentum = ops.where(updated, momentum, 1.0)
        _across_replicas(_move, self._pairs, momentum)
        steps.assign_add(1 if updated is True else ops.cast(updated, steps.dtype))


class _Count(keras.layers.Layer):
    """A number of updates that is saved with its owner."""

    def build(self, input_shape=None):
        self.steps = self.add_weight(
            shape=(), dtype="int32", trainable=False, name="steps", initializer="zeros",
            aggregation="only_first_replica",
        )  # fmt: skip
        self.built = True


def _move(copy, own, momentum):
    moved = momentum * ops.cast(copy, "float32") + (1 - momentum) * ops.cast(own, "float32")
    copy.assign(ops.cast(moved, copy.dtype))


def _across_replicas(move, pairs, momentum):
    """Calls `move(copy, own, momentum)` for each pair, once for all replicas of `tf.distribute`."""
    if _backend.NAME != "tensorflow":
        for copy, own in pairs:
            move(copy, own, momentum)
        return
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        for copy, own in pairs:
            move(copy.value, own.value, momentum)
        return
    copies, owns = zip(*((copy.value, own.value) for copy, own in pairs))

    def merge(strategy, copies, owns, momentum):
        for copy, own in zip(copies, owns):
            strategy.extended.update(copy, move, args=(own, momentum))

    context.merge_call(merge, args=(copies, owns, momentum))


def _copy(student):
    """Returns a model like the student, with weights of its own."""
    try:
        copy = type(student).from_config(student.get_config())
        if not copy.built:
            copy.build_from_config(student.get_build_config())
    except Exception as error:
        raise ValueError(
            f"`{student.name}` cannot be copied from its config ({error}). Give a model with the "
            "same variables, `EMATeacher(model=...)`."
        ) from error
    return copy


def _check_alike(copy, student):
    if not copy.built:
        raise ValueError("The model given to `EMATeacher` must be built. Call it on a batch.")
    shapes = [[tuple(v.shape) for v in model.variables] for model in (copy, student)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "The copy and the student must have variables of the same shapes. Give "
            "`EMATeacher(model=...)` a model with the student's architecture. Received: "
            f"{len(shapes[0])} and {len(shapes[1])} variables"
        )
    if {id(v) for v in copy.variables} & {id(v) for v in student.variables}:
        raise ValueError(
            "The model given to `EMATeacher` must not share variables with the student. Clone it."
        )
