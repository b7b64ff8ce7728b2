"""A moving copy of the student."""

import keras

from keras_distill import schedules
from keras_distill.teachers.inference import Inference
from keras_distill.teachers.model_teacher import ModelTeacher

import tensorflow as tf  # isort: skip: after the check of the backend in `taps`


class EMATeacher(ModelTeacher):
    """The exponential moving average of the student's weights: a mean teacher.

    `w_teacher <- m * w_teacher + (1 - m) * w_student` after each step.

    The copy is made, equal to the student, when a `Distiller` takes this teacher. All weights
    move, batch statistics included; the copy runs in inference mode. It is part of the
    distiller's checkpoints, with the number of steps, so that a run that resumes at an epoch's
    end goes on exactly; it is not saved with the student: `teacher.model.save(path)` does that.

    Args:
        momentum: `m`, in [0, 1]: a number or a schedule of the number of steps, from 0.
            Defaults to `0.999`.
        model: the model that becomes the copy, for a student that Keras cannot copy: built, and
            with the student's weights in the same order. Defaults to `None`: a copy is made.
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

    def __init__(self, momentum=0.999, *, model=None, preprocess=None):
        self.momentum = schedules.check("momentum", momentum, low=0, high=1)
        self.model = model
        self.preprocess = preprocess
        self.step = None

    @property
    def state(self):
        """The copy and the number of steps."""
        return () if self.step is None else (self.model, self.step)

    def begin(self, student):
        if self.step is not None:
            raise ValueError("This `EMATeacher` already follows a student: make another one.")
        if not student.built:
            raise ValueError("An `EMATeacher` copies a student that is built: call it on a batch.")
        with student.distribute_strategy.scope():
            self.model = _copy(student) if self.model is None else self.model
            _check_alike(self.model, student)
            self.model.set_weights(student.get_weights())
            for layer in self.model._flatten_layers():
                if isinstance(layer, keras.layers.Normalization):
                    layer.finalize_state()  # it reads constants that are made from its weights
            self.model.trainable = False
            self.step = keras.Variable(0, dtype="int64", trainable=False, name="ema_step")
        self.inference = Inference(self.model)
        pairs = zip(self.model.variables, student.variables)
        self._pairs = [(copy, own) for copy, own in pairs if "float" in str(copy.dtype)]

    def update(self, student):
        copies, own = zip(*((copy.value, own.value) for copy, own in self._pairs))
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            self._move(copies, own)
        else:
            context.merge_call(self._move_replicas, args=(copies, own))

    def _move(self, copies, own):
        momentum = self._momentum_now()
        for copy, variable in zip(copies, own):
            _step(copy, variable, momentum)
        self.step.value.assign_add(1)

    def _move_replicas(self, strategy, copies, own):
        momentum = self._momentum_now()
        for copy, variable in zip(copies, own):
            strategy.extended.update(copy, _step, args=(variable, momentum))
        strategy.extended.update(self.step.value, lambda step: step.assign_add(1))

    def _momentum_now(self):
        return tf.cast(schedules.value_at(self.momentum, self.step.value), tf.float32)


def _step(copy, variable, momentum):
    moved = momentum * tf.cast(copy, tf.float32) + (1 - momentum) * tf.cast(variable, tf.float32)
    copy.assign(tf.cast(moved, copy.dtype))


def _copy(student):
    """A model like the student, with weights of its own."""
    try:
        copy = type(student).from_config(student.get_config())
        if not copy.built:
            copy.build_from_config(student.get_build_config())
    except Exception as error:
        raise ValueError(
            f"`{student.name}` cannot be copied through its config ({error}). Give "
            "`EMATeacher(model=...)` a model like it."
        ) from error
    return copy


def _check_alike(copy, student):
    if not copy.built:
        raise ValueError("The model given to `EMATeacher` must be built: call it on a batch.")
    shapes = [[tuple(v.shape) for v in model.variables] for model in (copy, student)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "The copy and the student must have the same variables. Received: "
            f"{len(shapes[0])} and {len(shapes[1])}, or other shapes. Give `EMATeacher(model=...)` "
            "a model like the student."
        )
    if {id(v) for v in copy.variables} & {id(v) for v in student.variables}:
        raise ValueError("The model given to `EMATeacher` shares variables with the student.")
