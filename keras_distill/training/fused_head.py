"""`Distiller(fused_head=True)`: a step that never holds the logits of a large vocabulary."""

import functools
from typing import Any, NamedTuple

import keras

from keras_distill import fused, taps
from keras_distill.batch import Batch, TopK
from keras_distill.fused.compiled import given_loss, given_metrics
from keras_distill.fused.split import SplitModel
from keras_distill.teachers import CachedTeacher, ModelTeacher
from keras_distill.training import building, checks
from keras_distill.training import weights as weights_of
from keras_distill.training.term import student_paths

import tensorflow as tf  # isort: skip: after the check of the backend in `taps`


class MayFuse:
    """Gives a distiller the fused step where it is asked for."""

    def __new__(cls, *args, fused_head=False, **kwargs):
        return super().__new__(_fused(cls) if fused_head else cls, *args, **kwargs)


@functools.cache
def _fused(kind):
    return type(kind.__name__, (FusedStep, kind), {})


class Labelled(NamedTuple):
    """Inputs with the labels that a forward pass judges at once, and what weighs them."""

    x: Any
    labels: Any
    sample_weight: Any


class FusedStep:
    """The parts of a distiller's step that read logits, by blocks of the vocabulary instead.

    What stands at `"output"`, on both sides, are hidden states; after `_measure`, the student's
    are each token's cross-entropy and whether its likeliest word is the label.
    """

    def __init__(self, student, **kwargs):
        self._of_student, self._of_teachers = SplitModel(student), {}
        super().__init__(student, **kwargs)

    def compile(self, optimizer="rmsprop", loss=None, loss_weights=None, metrics=None,
                weighted_metrics=None, **kwargs):  # fmt: skip
        """Keras's, with a cross-entropy from logits as the only loss."""
        if loss_weights is not None:
            raise ValueError("With `fused_head=True` there is one loss: leave `loss_weights` out.")
        metrics, weighted = given_metrics(metrics), given_metrics(weighted_metrics)
        super().compile(optimizer, given_loss(loss), metrics=metrics, weighted_metrics=weighted,
                        **kwargs)  # fmt: skip
        self._judges_words = bool(metrics or weighted)

    def attach(self, *terms):
        """Adds terms: those on outputs must be divergences from a teacher with a head."""
        checks.check_terms(self, terms)
        for term in terms:
            if _reads_logits(term):
                self._check_fused(term)
        super().attach(*terms)

    def _check_fused(self, term):
        teacher = self.teachers[term.source]
        paths = (term.student, term.teacher) == ("output", "output")
        if not paths or term.projector is not None or not fused.takes(term.loss):
            raise ValueError(
                f"`{term.name}`: with `fused_head=True` a term on outputs is a divergence that is "
                "a sum over the classes (`KLDivergence`, `ReverseKL`, `JensenShannon` ...) "
                f"between `output` and `output`, without a projector. Received: {term!r}"
            )
        if type(teacher) is ModelTeacher and term.source not in self._of_teachers:
            split = self._of_teachers[term.source] = SplitModel(teacher.model)
            self.teachers[term.source] = teacher = teacher.running(split.body)
        elif not isinstance(teacher, (ModelTeacher, CachedTeacher)):
            raise ValueError(
                f"`{term.name}`: with `fused_head=True` outputs come from a model with an output "
                f"head, or as a `TopK` from a cache. Received: {type(teacher).__name__}"
            )

    def call(self, x, training=None):
        """The student's logits; of `Labelled` inputs, what is known of each token."""
        if not isinstance(x, Labelled):
            return super().call(x, training=training)
        hidden = self._hidden(self._of_student.body(x.x, training=training))
        weights = _of_labels(hidden, Batch(*x, targets=None))
        head = self._of_student.head(_silenced(hidden, [weights]))
        measured = fused.measure(head, labels=x.labels, accuracy=self._judges_words)
        return self._judged(measured, hidden)

    def _hidden(self, output):
        """The body's output, with the mask that logits would have."""
        hidden = tf.identity(output)
        if (mask := self._of_student.mask(output)) is not None:
            hidden._keras_mask = mask
        return hidden

    def test_step(self, data):
        """The student alone, by blocks."""
        batch = building.tensors(Batch.unpack(data))
        x = batch.x if batch.labels is None else Labelled(*batch[:3])
        return super().test_step((x, batch.labels, batch.sample_weight))

    def _features(self, batch, training):
        paths = ["output", *student_paths(self.terms)]
        return taps.run(self._of_student.body, batch.x, paths, training=training)

    def _measure(self, features, targets, batch):
        hidden = self._hidden(features["output"])
        terms = [term for term in self.terms if _reads_logits(term)]
        weights = {term: weights_of.product(term.masks, "output", hidden, batch, term.name)
                   for term in terms}  # fmt: skip
        judged = self._compile_loss is not None or self._judges_words
        labels = batch.labels if judged else None
        found = [*weights.values()] + ([] if labels is None else [_of_labels(hidden, batch)])
        student = self._of_student.head(_silenced(hidden, found))
        labels = _in_range(labels, student)
        values = {}
        for term in terms or [None]:
            teacher = None if term is None else self._target(term, targets, weights[term])
            measured = fused.measure(student, labels=labels, teacher=teacher,
                                     loss=term and term.loss,
                                     accuracy=self._judges_words)  # fmt: skip
            if labels is not None:
                features["output"] = self._judged(measured, hidden)
            labels = None  # once is enough
            values[term] = measured.divergence
        return {term: term._weighed(values[term], weights[term]) if term in values
                else term(features, targets[term.source], batch, self.projectors.get(term.name))
                for term in self.terms}  # fmt: skip

    def _target(self, term, targets, weights):
        target = targets[term.source]["output"]
        if isinstance(target, TopK):
            parts = (_silenced(part, [weights]) for part in target[1:3])
            return TopK(target.ids, *parts, target.temperature)
        if term.source in self._of_teachers:
            return self._of_teachers[term.source].head(_silenced(target, [weights]))
        raise ValueError(
            f"`{term.name}`: with `fused_head=True` a cache gives a `TopK`: whole logits are what "
            f"it spares. Received: a tensor of shape {tuple(target.shape)}. Cache with `top_k=...`."
        )

    def _judged(self, measured, hidden):
        right = measured.correct
        right = tf.zeros_like(measured.cross_entropy) if right is None else right
        judged = tf.stack([measured.cross_entropy, right], axis=-1)
        if (mask := getattr(hidden, "_keras_mask", None)) is not None:
            judged._keras_mask = mask
        return judged


def _reads_logits(term):
    paths = keras.tree.flatten([term.student, term.teacher])
    return any(path.partition(":")[0] == "output" for path in paths)


def _of_labels(hidden, batch):
    """What weighs the labels' loss: the sample weight, and Keras's mask."""
    return weights_of.product(("sample_weight",), "output", hidden, batch, "labels")


def _silenced(values, weights):
    """Zeros where no weight counts; all count where one of the weights is `None`, or none is."""
    if not weights or any(weight is None for weight in weights):
        return values
    rank = max((weight.shape.rank for weight in weights), default=0)
    counts = [weights_of.expanded(tf.cast(weight, tf.float32), rank) != 0 for weight in weights]
    alive = functools.reduce(tf.logical_or, counts)
    return weights_of.silence(values, tf.cast(alive, tf.float32), (1,))


def _in_range(labels, head):
    """The labels, refused where they are no class ids: seen at the first batch, which is eager."""
    if labels is None or tf.is_symbolic_tensor(labels):
        return labels
    wrong = tf.boolean_mask(labels, tf.logical_or(labels < 0, labels >= head.vocabulary))
    if tf.size(wrong):
        raise ValueError(
            f"Labels must be class ids in [0, {head.vocabulary}). Received: {wrong[0].numpy()}."
        )
    return labels
