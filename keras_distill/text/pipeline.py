"""Runs preprocessors before a distiller: the student's own, and those of teachers beside it.

A KerasHub task runs its preprocessor in `fit`, `evaluate` and `predict`, and so does a distiller
around it. A teacher that reads the raw data in another way gets inputs of its own beside the
student's. A preprocessor that tokenizes runs if the data hold strings. Any other always runs.
"""

import math

import keras
import numpy as np
from keras import tree

from keras_distill import _backend
from keras_distill.batch import Supervision, labels_of
from keras_distill.text.view import is_textual, preprocessed, preprocessor_of, unpacked

SAMPLES = ("x", "y", "sample_weight")


class Readers:
    """The preprocessors that the data need.

    Args:
        student: the student.
        teachers: a list of `Teacher`s.
        x: the inputs, or a dataset of them.
    """

    def __init__(self, student, teachers, x):
        text = is_text(x)
        views = [view for teacher in teachers for view in teacher.views]
        self.views = [view for view in views if text or not view.reads_text]
        own = preprocessor_of(student)
        self.student = student if own is not None and (text or not is_textual(own)) else None

    def __bool__(self):
        return self.student is not None or bool(self.views)

    def read(self, x, y=None, sample_weight=None):
        """Preprocesses one batch of raw samples; `Supervision` carries the teachers' views."""
        theirs = [(view, view.read(x, labels_of(y), sample_weight)) for view in self.views]
        inputs = {view.key: made[0] for view, made in theirs}
        targets = y.targets if isinstance(y, Supervision) else ()
        labels = labels_of(y)
        if self.student is not None:
            x, labels, weights = unpacked(preprocessed(self.student, x, labels, sample_weight))
            sample_weight = sample_weight if weights is None else weights  # else they are lost
        for view, made in theirs:
            inputs.update(view.beside(made, (x, labels, sample_weight)))
        rides = bool(inputs) or isinstance(y, Supervision)
        if rides or (labels is None and sample_weight is not None):
            labels = Supervision(labels, targets, inputs or ())
        return keras.utils.pack_x_y_sample_weight(x, labels, sample_weight)

    def dataset(self, given, steps=None, shuffle=False):
        """Returns a dataset of batches as student and teachers read them.

        Args:
            given: the arguments of `fit`, `evaluate` or `predict` that hold samples.
            steps: the number of batches in an epoch, which divides the samples if no size is given.
            shuffle: whether arrays are shuffled, as Keras does; KerasHub's own `fit` does not.
        """
        tf = _backend.tensorflow("Raw data that a preprocessor reads")
        data = given["x"]
        if not is_dataset(data):
            self._check_arrays(data)
            samples = [_slices(given.get(name)) for name in SAMPLES]
            count = _count(samples[0])
            data = tf.data.Dataset.from_tensor_slices(keras.utils.pack_x_y_sample_weight(*samples))
            if shuffle and self.student is None:
                data = data.shuffle(count, reshuffle_each_iteration=True)
            divided = math.ceil(count / steps) if steps and self.student is None else 32
            data = data.batch(given.get("batch_size") or divided)
        elif given.get("y") is not None:
            raise ValueError("A dataset holds its own labels. Leave `y` out.")
        data = data.map(self.read, num_parallel_calls=tf.data.AUTOTUNE)
        return data.prefetch(tf.data.AUTOTUNE)

    def _check_arrays(self, data):
        leaves = tree.flatten(data) if isinstance(data, (dict, list, tuple)) else [data]
        if isinstance(data, keras.utils.PyDataset) or not all(map(_is_rows, leaves)):
            names = [self.student.name] if self.student is not None else []
            names += [view.model.name for view in self.views]
            raise ValueError(
                f"The preprocessor of `{names[0]}` reads arrays and `tf.data` datasets. Received: "
                f"{type(data).__name__}. Run the preprocessor inside your data and take it off the "
                "model (`model.preprocessor = None`), or convert a teacher's inputs with "
                "`ModelTeacher(teacher, preprocess=...)`."
            )


def read_raw(given, student, teachers, steps="steps"):
    """Replaces raw samples in the arguments of `evaluate` or `predict` by preprocessed batches.

    Args:
        given: the arguments by name; changed in place.
        student: the student.
        teachers: a list of `Teacher`s.
        steps: the name of the argument that counts batches.
    """
    readers = Readers(student, teachers, given.get("x"))
    if readers:
        shuffle = given.pop("shuffle", False)
        given["x"] = readers.dataset(given, given.get(steps), shuffle)
        for taken in ("y", "sample_weight", "batch_size"):
            given.pop(taken, None)
    return given


def read_raw_fit(given, student, teachers):
    """Does the same for `fit`, with its validation data."""
    if Readers(student, teachers, given.get("x")):
        _split(given)
    validation = given.get("validation_data")
    readers = Readers(student, teachers, _inputs(validation))
    if validation is not None and readers:
        arguments = _validation(validation, given)
        steps = given.get("validation_steps")
        given["validation_data"] = readers.dataset(arguments, steps)
    given.setdefault("shuffle", True)
    read_raw(given, student, teachers, "steps_per_epoch")
    given.setdefault("shuffle", True)
    return given


def is_text(x):
    """Returns whether samples are strings, in a dataset, an array or a structure."""
    if is_dataset(x):
        specs = tree.flatten(_inputs(x))
        return any(spec.dtype == "string" for spec in specs if hasattr(spec, "dtype"))
    if isinstance(x, dict):
        return any(is_text(part) for part in x.values())
    if isinstance(x, (list, tuple)):
        return any(is_text(part) for part in x[:8])
    if hasattr(x, "to_numpy"):
        x = x.to_numpy()
    if isinstance(x, np.ndarray) and x.dtype.kind == "O":
        return x.size > 0 and isinstance(x.flat[0], (str, bytes))
    dtype = getattr(x, "dtype", None)
    kind = getattr(dtype, "kind", None)
    return isinstance(x, (str, bytes)) or dtype == "string" or kind in ("U", "S")


def is_dataset(x):
    """Returns whether data are a `tf.data.Dataset`, without importing TensorFlow for others."""
    return type(x).__module__.startswith("tensorflow.") and hasattr(x, "element_spec")


def _inputs(data):
    """Returns the inputs in `(x, y)`, or in the specification of a dataset of them."""
    data = data.element_spec if is_dataset(data) else data
    return data[0] if isinstance(data, tuple) and data else data


def _validation(data, given):
    """Returns validation data as the arguments that hold them."""
    if is_dataset(data):
        return {"x": data}
    x, y, sample_weight = unpacked(data)
    size = given.get("validation_batch_size") or given.get("batch_size")
    return {"x": x, "y": y, "sample_weight": sample_weight, "batch_size": size}


def _split(given):
    """Takes the last part of arrays for validation, as Keras does."""
    share = given.pop("validation_split", None)
    if not share or given.get("validation_data") is not None:
        return
    if is_dataset(given["x"]):
        raise ValueError(
            "`validation_split` needs arrays or lists. Give `validation_data` for a dataset."
        )
    samples = {name: _slices(given.get(name)) for name in SAMPLES}
    kept = int(math.floor(_count(samples["x"]) * (1 - share)))
    rest = [_rows(samples[name], slice(kept, None)) for name in SAMPLES]
    given.update({name: _rows(samples[name], slice(kept)) for name in SAMPLES})
    given["validation_data"] = keras.utils.pack_x_y_sample_weight(*rest)


def _slices(data):
    """Returns samples as arrays: a list of strings or numbers becomes one array."""
    if data is None:
        return None
    if isinstance(data, dict):
        return {name: _slices(part) for name, part in data.items()}
    if isinstance(data, tuple):
        parts = [_slices(part) for part in data]
        return type(data)(*parts) if hasattr(data, "_fields") else tuple(parts)
    if isinstance(data, list):
        several = bool(data) and not np.isscalar(data[0]) and np.ndim(data[0]) > 0
        numbers = several and all(isinstance(row, list) and not is_text(row) for row in data)
        return tuple(map(_slices, data)) if several and not numbers else np.array(data)
    return data.to_numpy() if hasattr(data, "to_numpy") else data


def _rows(data, rows):
    """Returns some samples of a structure of arrays."""
    return tree.map_structure(lambda part: part if part is None else part[rows], data)


def _count(data):
    return len(next(part for part in tree.flatten(data) if part is not None))


def _is_rows(part):
    """Returns whether a leaf holds samples, or is one sample of a list."""
    return part is None or np.isscalar(part) or hasattr(part, "__len__") or hasattr(part, "shape")
