"""Runs a teacher on batches, to write its targets or to compare them with written ones."""

import keras
import numpy as np

from keras_distill import _backend, taps
from keras_distill._keras.layers import as_logits
from keras_distill.batch import Batch
from keras_distill.data import records
from keras_distill.data.preprocessing import reader_of
from keras_distill.losses.answers import are_probabilities
from keras_distill.teachers import ModelTeacher, Teacher


class LiveTargets:
    """Runs a teacher on batches, and keeps of each path what its form keeps.

    If an output ends in a softmax, the logits are taken. The batches come from tf.data. The teacher
    runs on the backend, in a graph on TensorFlow and op by op on others.
    """

    def __init__(self, teacher, paths):
        self.teacher = teacher if isinstance(teacher, Teacher) else ModelTeacher(teacher)
        self.paths = list(dict.fromkeys([paths] if isinstance(paths, str) else paths))
        if not self.paths or not all(isinstance(path, str) for path in self.paths):
            raise ValueError(f'`paths` must be paths such as "output". Received: paths={paths!r}')
        self._targets = _in_a_graph(self._asked)
        self.forms = {}

    def reader(self, spec):
        """Returns a function from a dataset's inputs to the teacher's, for the input pipeline.

        Args:
            spec: the specification of the dataset's elements, or a batch.
        """
        return reader_of(self.teacher, keras.utils.unpack_x_y_sample_weight(spec)[0])

    def raw(self, x, y, sample_weight):
        """Returns `{path: tensor}` of a batch, before a form selects anything."""
        return self._targets(*_on_backend((x, y, sample_weight)))

    def _asked(self, x, y, sample_weight):
        targets = self.teacher.targets(Batch(x, y, sample_weight, None), {}, self.paths)
        for path, value in targets.items():
            if keras.tree.is_nested(value):
                parts = ", ".join(value) if isinstance(value, dict) else f"{len(value)} parts"
                raise ValueError(
                    f"`paths` must name single tensors, but `{path}` has the parts {parts}. Name "
                    f"one of them, as in `{path}:key`."
                )
        return {path: as_logits(value) for path, value in targets.items()}

    def decide(self, batch, top_k, temperature, dtype):
        """Chooses a form for each path by the targets of a first batch."""
        self.teacher.examine(Batch(*_on_backend(batch), None), self.paths)
        # Eagerly: the first answer of a function tells whether it can be traced.
        asked = self._asked if _backend.NAME == "tensorflow" else self._targets
        for path, value in asked(*_on_backend(batch)).items():
            if top_k is not None and _is_output(path, self.teacher):
                _check_top_k(path, value, top_k)
                self.forms[path] = records.Top(
                    path, value.shape[1:-1], dtype, top_k, value.shape[-1], temperature
                )
            else:
                kept = "float16" if dtype == records.QUANTIZED else dtype
                self.forms[path] = records.Whole(path, value.shape[1:], kept)
        self.use(self.forms)

    def use(self, forms):
        """Uses the forms in which other targets were kept."""
        self.forms = forms

        def taken(*batch):
            return {path: forms[path].taken(value) for path, value in self._asked(*batch).items()}

        self._taken = _in_a_graph(taken)

    def __call__(self, batch):
        """Returns `{path: arrays}` of `(x, y, sample_weight)`."""
        taken = self._taken(*_on_backend(batch))
        found = keras.tree.map_structure(keras.ops.convert_to_numpy, taken)
        for path, value in found.items():
            self._check(path, value)
        return found

    def _check(self, path, value):
        first = value[0] if isinstance(value, (list, tuple)) else value
        expected = self.forms[path].shape
        if first.shape[1 : 1 + len(expected)] != expected:
            raise ValueError(
                f"`{path}` must have the same shape for all examples. Pad or crop them to one "
                f"size. Received: {first.shape[1:]} after {expected}"
            )
        if any(np.isnan(part).any() for part in keras.tree.flatten(value)):
            raise ValueError(f"The teacher's output `{path}` contains NaN. Check its inputs.")


def _in_a_graph(function):
    """Returns the function, compiled to a graph on TensorFlow; on PyTorch it keeps no gradients."""
    if _backend.NAME == "tensorflow":
        tf = _backend.tensorflow("A cache of targets")
        return tf.function(function, reduce_retracing=True, autograph=False)
    if _backend.NAME == "torch":
        import torch

        return torch.no_grad()(function)
    return function


def _on_backend(structure):
    """Converts a batch of tf.data to the backend's tensors; strings stay TensorFlow's."""
    if _backend.NAME == "tensorflow":
        return structure

    def tensor(value):
        array = np.asarray(value)
        return value if array.dtype == object else keras.ops.convert_to_tensor(array)

    return keras.tree.map_structure(lambda v: None if v is None else tensor(v), structure)


def _is_output(path, teacher):
    """Returns whether a path names an output of the teacher, or of one member of an ensemble."""
    name, _, below = path.partition("/")
    member = getattr(teacher, "members", {}).get(name) if below else None
    if member is not None:
        return _is_output(below, member)
    return taps.is_edge(path) and path.startswith("output")


def _check_top_k(path, value, top_k):
    classes = value.shape[-1]
    if not 1 <= top_k < classes:
        raise ValueError(
            f"`top_k` must be from 1 to {classes - 1}, since `{path}` has {classes} classes. Leave "
            f"`top_k` out to save all classes. Received: top_k={top_k}"
        )
    if are_probabilities(value):
        raise ValueError(
            f"`top_k` takes logits, but `{path}` gives probabilities. Remove the softmax from the "
            "teacher, or take the logarithm of its output."
        )
