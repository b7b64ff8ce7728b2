"""Fits, evaluates and predicts on strings, as KerasHub's tasks do."""

import functools
import inspect

import keras
import numpy as np

from keras_distill.batch import VIEWS, Supervision, labels_of
from keras_distill.text.view import preprocessed, preprocessor_of, unpacked

import tensorflow as tf  # isort: skip: after the check of the backend in `taps`


class TakesText:
    """Puts preprocessors into the input pipeline of a distiller whose data are strings.

    The student's makes what the student is trained on; a teacher that reads text otherwise gets
    inputs of its own beside them. Data without strings pass as they are.
    """

    def fit(self, *args, **kwargs):
        given = inspect.signature(keras.Model.fit).bind(self, *args, **kwargs).arguments
        given.pop("self")
        if is_text(given.get("x")):
            _split(given)
        validation = given.get("validation_data")
        if is_text(_inputs(validation)):
            given["validation_data"] = _piped(self, _validation(validation, given))
        if is_text(given.get("x")):
            given["x"] = _piped(self, given, shuffle=given.pop("shuffle", True))
            for taken in ("y", "sample_weight", "batch_size"):
                given.pop(taken, None)
        return super().fit(**given)

    def evaluate(self, *args, **kwargs):
        return super().evaluate(**self._read_texts(keras.Model.evaluate, args, kwargs))

    def predict(self, *args, **kwargs):
        return super().predict(**self._read_texts(keras.Model.predict, args, kwargs))

    def _read_texts(self, function, args, kwargs):
        """The arguments by name, with batches of tokens in the place of texts."""
        given = inspect.signature(function).bind(self, *args, **kwargs).arguments
        del given["self"]
        given |= given.pop("kwargs", {})  # Keras's own, without names in the signature
        if is_text(given.get("x")):
            given["x"] = _piped(self, given)
            for taken in ("y", "sample_weight", "batch_size"):
                given.pop(taken, None)
        return given


def is_text(x):
    """Whether samples are strings: a dataset's, an array's, or those in a structure."""
    if _is_dataset(x):
        specs = keras.tree.flatten(_inputs(x))
        return any(spec.dtype == tf.string for spec in specs if hasattr(spec, "dtype"))
    if isinstance(x, dict):
        return any(is_text(part) for part in x.values())
    if isinstance(x, (list, tuple)):
        return len(x) > 0 and is_text(x[0])
    if isinstance(x, np.ndarray) and x.dtype.kind == "O":
        return x.size > 0 and isinstance(x.flat[0], (str, bytes))
    dtype = getattr(x, "dtype", None)
    kind = getattr(dtype, "kind", None)
    return isinstance(x, (str, bytes)) or dtype == tf.string or kind in ("U", "S")


def _is_dataset(x):
    return isinstance(x, tf.data.Dataset)


def _inputs(data):
    """The inputs in `(x, y)`, or in the specification of a dataset of them."""
    data = data.element_spec if _is_dataset(data) else data
    return data[0] if isinstance(data, tuple) and data else data


def _validation(data, given):
    """Validation data as the arguments that hold them."""
    if _is_dataset(data):
        return {"x": data}
    x, y, sample_weight = unpacked(data)
    size = given.get("validation_batch_size") or given.get("batch_size")
    return {"x": x, "y": y, "sample_weight": sample_weight, "batch_size": size}


def _piped(distiller, given, shuffle=False):
    """A dataset of batches as the student, and the teachers beside it, read them."""
    data = given["x"]
    if not _is_dataset(data):
        samples = [given.get(name) for name in ("x", "y", "sample_weight")]
        data = tf.data.Dataset.from_tensor_slices(keras.utils.pack_x_y_sample_weight(*samples))
        if shuffle:
            data = data.shuffle(data.cardinality(), reshuffle_each_iteration=True)
        data = data.batch(given.get("batch_size") or 32)
    elif given.get("y") is not None:
        raise ValueError("A dataset brings its own labels: `y` must be left out.")
    read = functools.partial(_read, distiller)
    return data.map(read, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _read(distiller, x, y=None, sample_weight=None):
    """One batch of raw samples, preprocessed; views of teachers ride along with the labels."""
    views = [view for teacher in distiller.teachers.values() for view in teacher.views]
    theirs = [(view, view.read(x, labels_of(y), sample_weight)) for view in views]
    inputs = {view.key: made[0] for view, made in theirs}
    targets = y.targets if isinstance(y, Supervision) else None
    labels = y.labels if isinstance(y, Supervision) else y
    if preprocessor_of(distiller.student) is not None:
        x, labels, weights = unpacked(preprocessed(distiller.student, x, labels, sample_weight))
        sample_weight = sample_weight if weights is None else weights  # lost where no labels are
    for view, made in theirs:
        inputs.update(view.beside(made, (x, labels, sample_weight)))
    if inputs:
        targets = targets if isinstance(targets, dict) or targets is None else {"output": targets}
        targets = {**(targets or {}), VIEWS: inputs}
    y = labels if targets is None else Supervision(labels, targets)
    return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)


def _split(given):
    """Takes the last part of arrays for validation, as Keras does."""
    share = given.pop("validation_split", None)
    if not share or given.get("validation_data") is not None:
        return
    if _is_dataset(given["x"]):
        raise ValueError("`validation_split` takes arrays or lists, not a dataset.")
    names = ("x", "y", "sample_weight")
    kept = int(_count(given["x"]) * (1 - share))
    for name in names:
        given.setdefault(name, None)
    rest = [_rows(given[name], slice(kept, None)) for name in names]
    given.update({name: _rows(given[name], slice(kept)) for name in names})
    given["validation_data"] = keras.utils.pack_x_y_sample_weight(*rest)


def _rows(data, rows):
    """Some samples of an array, a list of them, or a structure of arrays."""
    if data is None or _is_batch(data):
        return data if data is None else data[rows]
    if isinstance(data, dict):
        return {name: _rows(part, rows) for name, part in data.items()}
    parts = [_rows(part, rows) for part in data]
    return type(data)(*parts) if isinstance(data, Supervision) else type(data)(parts)


def _count(data):
    while not _is_batch(data):
        data = next(iter(data.values())) if isinstance(data, dict) else data[0]
    return len(data)


def _is_batch(data):
    """Whether a list or array holds one sample an item."""
    if isinstance(data, list):
        return not data or not isinstance(data[0], (list, tuple, dict)) and np.ndim(data[0]) == 0
    return not isinstance(data, (tuple, dict))
