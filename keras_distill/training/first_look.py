"""Checks the first batch for all errors that are known before the first update."""

import contextlib
import warnings

import keras
import numpy as np
from keras import ops, tree

from keras_distill import _backend, schedules
from keras_distill._keras.layers import logits_of, set_logits, sublayers
from keras_distill.training.term import teacher_paths

RANDOM = (
    "RandomAffine", "RandomCrop", "RandomElasticTransform", "RandomFlip", "RandomPerspective",
    "RandomRotation", "RandomShear", "RandomTranslation", "RandomZoom",
)  # fmt: skip


def look(objective, batch):
    """Runs student and teachers once in inference mode, checks the results and makes layers.

    Args:
        objective: the `Objective`.
        batch: its first `Batch`, of tensors.

    Returns:
        The output for the compiled loss and metrics.
    """
    build(objective.student, objective.inputs(batch.x))
    for term in objective.terms:
        objective.check(term)  # layers that a model makes late exist now
    with untouched(objective), _Watching(objective.read), schedules.at(0):
        features = objective.features(batch, training=False)
        if objective.choose_defaults(features, batch):
            features = objective.features(batch, training=False)
        for source, paths in teacher_paths(objective.terms).items():
            objective.teachers[source].examine(batch, paths)
        targets = objective.targets(batch)
        answers = {**targets, **objective.targets(batch, features)}
    objective.note_shapes(targets)
    objective.check_heads(features, answers)
    _check_places(objective, features)
    for term in objective.waiting():
        answer = answers[term.source]
        objective.layers[term.name] = term.build(objective.student, features, answer)
    with untouched(objective), _Watching(objective.read), schedules.at(0):
        for knob in objective.knobs():
            if np.isnan(knob.within(0)):
                raise knob.error(0)
        measured, output = objective.measured_output(features, targets, batch)
        for name, each in measured.items():
            _check_finite(objective, name, answers, each.values)
    objective.check_labels(batch, features)
    return output


class _Watching(keras.StatelessScope):
    """Records every variable that is read, and keeps assignments in itself."""

    def __init__(self, read):
        super().__init__()
        self.read = read

    def get_current_value(self, variable):
        self.read[id(variable)] = variable
        return super().get_current_value(variable)


@contextlib.contextmanager
def untouched(objective):
    """Restores the state outside of Keras's scopes: memories of losses, TensorFlow's variables."""
    own = [v for layer in objective.own_layers() for v in layer.non_trainable_variables]
    before = [(variable, ops.convert_to_numpy(variable)) for variable in own]
    before += [(variable, variable.numpy()) for variable in _raw_variables(objective)]
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def _raw_variables(objective):
    """Yields TensorFlow's variables that layers hold beside those of Keras."""
    if _backend.NAME != "tensorflow":
        return []
    import tensorflow as tf

    models = [objective.student]
    models += [model for teacher in objective.teachers.values() for model in teacher.models()]
    layers = [layer for model in models if isinstance(model, keras.layers.Layer)
              for layer in [model, *sublayers(model, recursive=True)]]  # fmt: skip
    return [value for layer in layers for value in vars(layer).values()
            if isinstance(value, tf.Variable) and value.dtype != tf.resource]  # fmt: skip


def build(model, x):
    """Builds a model without running it, if Keras can, so that its state does not change."""
    if model.built:
        return
    symbols = tree.map_structure(
        lambda value: keras.KerasTensor(value.shape, keras.backend.standardize_dtype(value.dtype)),
        x,
    )
    try:
        model(symbols)
    except Exception:  # a `call` that needs values; its own error says what is wrong
        model(x)


def with_shape(value, shape):
    """Gives a tensor of a graph the axes and the last size that the first batch had.

    Only TensorFlow has tensors of unknown shape, such as outputs of a `tf.numpy_function`.
    """
    if _backend.NAME != "tensorflow" or not ops.is_tensor(value):
        return value
    if value.shape.rank is not None and (value.shape.rank < 2 or value.shape[-1] is not None):
        return value
    import tensorflow as tf

    axes = [None] * len(shape) if value.shape.rank is None else list(value.shape)
    if len(shape) > 1:
        axes[-1] = shape[-1]
    shaped = tf.ensure_shape(value, axes)
    if logits_of(value) is not None:
        set_logits(shaped, tf.ensure_shape(logits_of(value), axes))
    return shaped


def _check_places(objective, features):
    """Warns if a random layer moves the places that a term compares one by one."""
    moved = [
        layer.name for layer in sublayers(objective.student, True) if type(layer).__name__ in RANDOM
    ]
    for term in objective.terms if moved else ():
        paths = tree.flatten(term.student) if term.source != "self" else []
        if any(len(getattr(features[path], "shape", ())) > 3 for path in paths):
            warnings.warn(
                f"`{term.name}` compares feature maps position by position, but layers inside the "
                f"student shift its images at random ({', '.join(moved)}) and the teacher sees "
                "other images. Put the augmentation into the data, so that both see the same ones.",
                stacklevel=2,
            )


def _check_finite(objective, name, answers, values):
    """Raises an error for NaN on the first batch where it has weight."""
    if np.isfinite(ops.convert_to_numpy(ops.cast(values, "float32"))).all():
        return
    term = next(each for each in objective.terms if each.name == name)
    for path in tree.flatten(term.teacher):
        for tensor in tree.flatten(answers[term.source].get(path)):
            if ops.is_tensor(tensor) and np.isnan(_numbers(tensor)).any():
                raise ValueError(
                    f"NaN in the output of `{term.source}` at `{path}`, at step 0. Check the "
                    "inputs and the model's weights."
                )


def _numbers(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))
