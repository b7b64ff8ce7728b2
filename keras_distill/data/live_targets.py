"""A teacher that is run to be written down, or compared with what was."""

import keras
import numpy as np

from keras_distill import taps
from keras_distill.batch import Batch
from keras_distill.data import records
from keras_distill.teachers import ModelTeacher, Teacher
from keras_distill.training.heads import are_probabilities
from keras_distill._keras.layers import as_logits as logits_of

import tensorflow as tf  # isort: skip: after the check of the backend in `taps`


class LiveTargets:
    """Runs a teacher on batches, in a graph, and takes of each path what its form keeps.

    Of an output that ends in a softmax the logits are taken.
    """

    def __init__(self, teacher, paths):
        self.teacher = teacher if isinstance(teacher, Teacher) else ModelTeacher(teacher)
        self.paths = list(dict.fromkeys([paths] if isinstance(paths, str) else paths))
        if not self.paths or not all(isinstance(path, str) for path in self.paths):
            raise ValueError(f'`paths` must be paths such as "output". Received: paths={paths!r}')
        self.raw = tf.function(self._raw, reduce_retracing=True)
        self.forms = {}

    def _raw(self, x, y, sample_weight):
        batch = Batch(x, y, sample_weight, None)
        targets = self.teacher.targets(batch, {}, self.paths)
        for path, value in targets.items():
            if keras.tree.is_nested(value):
                parts = ", ".join(value) if isinstance(value, dict) else f"{len(value)} parts"
                raise ValueError(f"`{path}` has {parts}: name one, as in `{path}:key`.")
        return {path: logits_of(value) for path, value in targets.items()}

    def decide(self, batch, top_k, temperature, dtype):
        """Chooses a form for each path by the targets of a first batch."""
        self.teacher.examine(Batch(*batch, None), self.paths)
        for path, value in self.raw(*batch).items():
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
        """Takes what other targets were kept as."""
        self.forms = forms

        def taken(*batch):
            return {path: forms[path].taken(value) for path, value in self._raw(*batch).items()}

        self._taken = tf.function(taken, reduce_retracing=True)

    def __call__(self, batch):
        """`{path: arrays}` of `(x, y, sample_weight)`."""
        found = keras.tree.map_structure(np.asarray, self._taken(*batch))
        for path, value in found.items():
            self._check(path, value)
        return found

    def _check(self, path, value):
        first = value[0] if isinstance(value, (list, tuple)) else value
        expected = self.forms[path].shape
        if first.shape[1 : 1 + len(expected)] != expected:
            raise ValueError(
                f"`{path}` has the shape {first.shape[1:]} here, and began with {expected}: pad or "
                "crop all examples to one size."
            )
        if any(np.isnan(part).any() for part in keras.tree.flatten(value)):
            raise ValueError(f"The teacher gives NaN at `{path}`.")


def _is_output(path, teacher):
    """Whether a path names an output of the teacher, or of one member of an ensemble."""
    name, _, below = path.partition("/")
    member = getattr(teacher, "members", {}).get(name) if below else None
    if member is not None:
        return _is_output(below, member)
    return taps.is_edge(path) and path.startswith("output")


def _check_top_k(path, value, top_k):
    classes = value.shape[-1]
    if not 1 <= top_k < classes:
        raise ValueError(
            f"`top_k` must be from 1 to {classes - 1}, below the {classes} classes of `{path}`; "
            f"leave it out to keep them all. Received: top_k={top_k}"
        )
    if are_probabilities(value):
        raise ValueError(
            f"`{path}` gives probabilities, and `top_k` takes logits: take the softmax out of the "
            "teacher, or give `tf.math.log` of its output."
        )
