"""Several teachers that answer as one."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops, tree

from keras_distill import taps
from keras_distill._backend import is_symbolic
from keras_distill._keras.layers import as_logits
from keras_distill.losses.answers import are_probabilities
from keras_distill.teachers.model_teacher import ModelTeacher
from keras_distill.teachers.teacher import Teacher, stop_gradient

WAYS = ("probabilities", "logits", "confidence")


class EnsembleTeacher(Teacher):
    """Combines teachers of the same classes into one answer; each runs once per step.

    At `"output"` (or `"output:key"`) it serves logits in float32:

    - `combine="probabilities"`: `log(sum_k w_k softmax(z_k))`, the log of the mean probabilities,
      which are logits of that mean (mixed at temperature 1);
    - `combine="logits"`: `sum_k w_k z_k`;
    - `combine="confidence"`: as "probabilities", with `w_k` times
      `(1 - exp(H_k) / sum_j exp(H_j)) / (K - 1)` for each example, divided by their sum. `H_k` is
      the member's cross entropy with the labels, which gives CA-MKD's weights of predictions, or
      its entropy if the batch has no labels. CA-MKD weighs the members' own losses at a
      temperature. Their gradient is that of a loss with the mixture only at temperature 1. Its
      code also divides by `K`, and weighs hints in another way.

    At a layer's path it serves the weighted mean of this layer over all members. Networks that
    were trained separately do not share the axes of their layers, so this mean is useful only for
    attention maps, or for copies of one network. `"name/path"` is the path in one member.

    Args:
        teachers: at least two Keras models, `Teacher`s or functions of the inputs: a list (then
            their names are "0", "1", ...) or a dict by name.
        weights: non-negative numbers, one for each member. Only their ratio counts. Defaults to
            equal weights.
        combine: `"probabilities"`, `"logits"` or `"confidence"`. Defaults to `"probabilities"`.

    Raises:
        ValueError: for fewer than two members, wrong weights or an unknown `combine`; when it
            runs, for members of different shapes or one that ends in probabilities.

    Example:

    ```python
    ensemble = EnsembleTeacher({"a": wide, "b": deep}, weights=[2, 1])
    hint = Term("mse", student="block_2", teacher="a/block_2", projector="auto", name="hint")
    Distiller(student, teacher=ensemble, terms=[Term(losses.KLDivergence(2.0)), hint])
    ```

    Reference:
        - [Zhang et al., 2022](https://arxiv.org/abs/2201.00007) for confidence with labels
    """

    def __init__(
        self,
        teachers: Sequence[Any] | dict[str, Any],
        *,
        weights: Sequence[float] | None = None,
        combine: str = "probabilities",
    ):
        if not isinstance(teachers, dict):
            teachers = {str(index): teacher for index, teacher in enumerate(teachers)}
        if len(teachers) < 2:
            raise ValueError(
                "An ensemble needs at least two `teachers`. Give a single teacher to `Distiller` "
                f"directly. Received: {len(teachers)}"
            )
        if combine not in WAYS:
            raise ValueError(f"`combine` must be one of {WAYS}. Received: combine={combine!r}")
        self.members = {
            name: teacher if isinstance(teacher, Teacher) else ModelTeacher(teacher)
            for name, teacher in teachers.items()
        }
        self.weights = _normalized(weights, len(teachers))
        self.combine = combine

    @property
    def state(self):
        return tuple(part for member in self.members.values() for part in member.state)

    @property
    def views(self):
        return tuple(view for member in self.members.values() for view in member.views)

    def begin(self, student):
        for member in self.members.values():
            member.begin(student)

    def has(self, path):
        member, own = self._one(path)
        asked = [self.members[member]] if member else self.members.values()
        return all(each.has(own) for each in asked)

    def models(self):
        return tuple(model for member in self.members.values() for model in member.models())

    def describe(self):
        members = "; ".join(f"{name}: {each.describe()}" for name, each in self.members.items())
        return f"ensemble by {self.combine} ({members})"

    def update(self, student, updated=True):
        for member in self.members.values():
            member.update(student, updated)

    def examine(self, batch, paths):
        for name, own in self._asked(paths).items():
            self.members[name].examine(batch, own)

    def targets(self, batch, features, paths):
        answers = {name: self.members[name].targets(batch, features, own)
                   for name, own in self._asked(paths).items()}  # fmt: skip
        return {path: self._served(path, answers, batch) for path in paths}

    def _asked(self, paths):
        """Returns the paths to ask of each member; members without paths are left out."""
        asked = {name: {} for name in self.members}
        for path in paths:
            member, own = self._one(path)
            for name in [member] if member else asked:
                asked[name][own] = None
        return {name: list(own) for name, own in asked.items() if own}

    def _one(self, path):
        """Returns the member that a path names, or `None`, and the path in this member."""
        name, _, below = path.partition("/")
        return (name, below) if below and name in self.members else (None, path)

    def _served(self, path, answers, batch):
        member, own = self._one(path)
        if member:
            return answers[member][own]
        values = [answer[path] for answer in answers.values()]
        values = [as_logits(value) for value in values]
        self._check(path, values)
        stacked = ops.stack([ops.cast(value, "float32") for value in values])
        if self.combine == "logits" or not taps.is_edge(path):
            return stop_gradient(ops.tensordot(ops.convert_to_tensor(self.weights), stacked, 1))
        return stop_gradient(self._mixed(path, stacked, batch))

    def _mixed(self, path, logits, batch):
        """Returns the log of the weighted mean of the probabilities; members run along axis 0."""
        log_probs = ops.log_softmax(logits, axis=-1)
        weights = ops.reshape(self.weights, [-1] + [1] * (len(logits.shape) - 2))
        if self.combine == "confidence":
            doubt = _doubt(log_probs, _labels(path, batch.labels))
            trust = ops.maximum(1 - ops.softmax(doubt, axis=0), 1e-7)  # one keeps its weight
            weights = weights * trust / ops.sum(weights * trust, axis=0, keepdims=True)
        return ops.logsumexp(log_probs + ops.expand_dims(ops.log(weights), -1), axis=0)

    def _check(self, path, values):
        names = ", ".join(self.members)
        if any(tree.is_nested(value) for value in values):
            raise ValueError(
                f"An ensemble combines tensors, but `{path}` of a member has several parts. Choose "
                "one part, as in `output:key`, or one member, as in `name/path`. Members: " + names
            )
        shapes = [tuple(value.shape) for value in values]
        if not all(_fits(shapes[0], shape) for shape in shapes):
            raise ValueError(
                f"All members of an ensemble must have the same shape at `{path}`. Otherwise read "
                f"one member with `name/{path}`, where `name` is one of {names}. Received: "
                f"{', '.join(map(str, shapes))}"
            )
        if taps.is_edge(path) and self.combine != "logits":
            for name, value in zip(self.members, values):
                _check_logits(name, value)


def _fits(these, those):
    """Returns whether two shapes are equal as far as they are known."""
    same = all(a is None or b is None or a == b for a, b in zip(these, those))
    return len(these) == len(those) and same


def _normalized(weights, count):
    weights = np.ones(count) if weights is None else np.asarray(weights, "float64")
    if weights.shape != (count,) or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(
            f"`weights` must be non-negative numbers, one for each of the {count} teachers. "
            f"Received: weights={weights.tolist()}"
        )
    if not weights.sum() > 0:
        raise ValueError(f"`weights` must not all be zero. Received: weights={weights.tolist()}")
    return (weights / weights.sum()).astype("float32")


def _doubt(log_probs, labels):
    """Returns cross entropy with the labels, or entropy without them: (members, batch, ...)."""
    rank, classes = len(log_probs.shape) - 1, log_probs.shape[-1]
    probs = ops.exp(log_probs)
    if labels is not None:
        labels = ops.convert_to_tensor(labels)
        if len(labels.shape) == rank and labels.shape[-1] == 1 != classes:
            labels = labels[..., 0]
        if len(labels.shape) == rank - 1:
            probs = ops.expand_dims(ops.one_hot(ops.cast(labels, "int32"), classes), 0)
        elif len(labels.shape) == rank and labels.shape[-1] == classes:
            probs = ops.expand_dims(ops.cast(labels, "float32"), 0)
    log_probs = ops.maximum(log_probs, math.log(1e-30))  # 0 * -inf is NaN
    return -ops.sum(probs * log_probs, axis=-1)


def _labels(path, labels):
    key = path.partition(":")[2]
    labels = labels.get(key) if isinstance(labels, dict) else labels
    return None if tree.is_nested(labels) else labels


def _check_logits(name, value):
    """Raises an error for probabilities, since a mixture cannot tell them from logits."""
    if not is_symbolic(value) and are_probabilities(value):
        raise ValueError(
            f"An ensemble takes logits, but its member `{name}` gives probabilities (non-negative "
            "values that sum to one). Take the logarithm of its output, or give "
            '`combine="logits"` to average the values.'
        )
