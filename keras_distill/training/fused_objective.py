"""The objective of `Distiller(fused_head=True)`: no step holds all logits.
"""

import functools
from typing import Any, NamedTuple

import keras
from keras import ops, tree

from keras_distill import fused, taps
from keras_distill._keras import trainer
from keras_distill._keras.layers import mask_of, set_mask
from keras_distill.batch import Batch, TopK
from keras_distill.fused.compiled import given_loss, given_metrics
from keras_distill.fused.split import SplitModel
from keras_distill.teachers import CachedTeacher, ModelTeacher
from keras_distill.training import compiling, weights
from keras_distill.training.objective import Objective
from keras_distill.training.outputs import run
from keras_distill.training.term import student_paths


class Labelled(NamedTuple):
    """Inputs with labels and their weights, which a forward pass measures at once."""

    x: Any
    labels: Any
    sample_weight: Any


class Judge(keras.Model):
    """The model that is compiled in the student's place: it returns each token's cross-entropy.

    Its output is (batch, tokens, 2): the cross-entropy, and 1 where the likeliest word is right.

    Args:
        student: the student.
        split: the student's `SplitModel`.
    """

    def __init__(self, student, split):
        super().__init__(name=student.name, dtype=student.dtype_policy)
        trainer.takes_inputs_as_they_are(self)
        self.student, self.split, self.judges_words = student, split, False
        self.built = True

    def compile(self, optimizer="rmsprop", loss=None, loss_weights=None, metrics=None,
                weighted_metrics=None, **kwargs):  # fmt: skip
        """Calls Keras's `compile`; a cross-entropy from logits is the only loss it takes."""
        if loss_weights is not None:
            raise ValueError(
                "With `fused_head=True` there is only one loss. Leave `loss_weights` out."
            )
        metrics, weighted = given_metrics(metrics), given_metrics(weighted_metrics)
        super().compile(optimizer, given_loss(loss), metrics=metrics, weighted_metrics=weighted,
                        **kwargs)  # fmt: skip
        self.judges_words = bool(metrics or weighted)

    def call(self, x, training=None):
        if not isinstance(x, Labelled):
            return run(self.student, x, training)
        hidden = self.hidden(run(self.split.body, x.x, training))
        counts = of_labels(hidden, Batch(*x))
        head = self.split.head(silenced(hidden, [counts]))
        measured = fused.measure(head, labels=x.labels, accuracy=self.judges_words)
        return self.judged(measured, hidden)

    def hidden(self, output):
        """Returns the body's output, with the mask that logits would have."""
        hidden = ops.multiply(output, 1)  # a new tensor, since the mask is remembered by tensor
        mask = self.split.mask(output)
        if mask is not None:
            set_mask(hidden, mask)
        return hidden

    def judged(self, measured, hidden):
        """Returns the output from the values that blocks have measured."""
        right = measured.correct
        right = ops.zeros_like(measured.cross_entropy) if right is None else right
        judged = ops.stack([measured.cross_entropy, right], axis=-1)
        if mask_of(hidden) is not None:
            set_mask(judged, mask_of(hidden))
        return judged


class FusedObjective(Objective):
    """An objective that measures label loss and divergences of outputs by blocks of the vocabulary.

    Hidden states are at `"hidden"`. There is no `"output"`, since logits are never made.

    Args:
        student, teacher, terms, alpha: as in `Objective`.
    """

    gives_logits = False

    def __init__(self, student, teacher=None, terms=None, alpha=None):
        compiling.check_own_step(student)
        self._split, self._splits = SplitModel(student), {}
        self._judge = Judge(student, self._split)
        super().__init__(student, teacher, terms, alpha)

    @property
    def judged(self):
        return self._judge

    def judged_inputs(self, batch):
        x = self.inputs(batch.x)
        return x if batch.labels is None else Labelled(x, batch.labels, batch.sample_weight)

    def check(self, term):
        """Raises an error unless terms on outputs are divergences from a teacher with a head."""
        super().check(term)
        if not reads_logits(term):
            return
        teacher, paths = self.teachers[term.source], (term.student, term.teacher)
        if (
            paths != ("output", "output")
            or term.projector is not None
            or not fused.takes(term.loss)
        ):
            raise ValueError(
                f"With `fused_head=True` the term `{term.name}` on outputs must have a divergence "
                "that is a sum over the classes (`KLDivergence`, `ReverseKL`, `JensenShannon` ...) "
                f"and compare `output` with `output`, without a projector. Received: {term!r}"
            )
        if type(teacher) is ModelTeacher and term.source not in self._splits:
            split = self._splits[term.source] = SplitModel(teacher.model)
            self.teachers[term.source] = teacher.running(split.body)
        elif not isinstance(teacher, (ModelTeacher, CachedTeacher)):
            raise ValueError(
                f"With `fused_head=True` the teacher of `{term.name}` must be a model with an "
                f"output head, or a cache of `TopK`. Received: {type(teacher).__name__}"
            )

    def features(self, batch, training):
        paths = [path for path in student_paths(self.terms) if not is_output(path)]
        x = self.inputs(batch.x)
        found = taps.run(self._split.body, x, ["output", *paths], training=training)
        return {**found, "hidden": self._judge.hidden(found.pop("output"))}

    def targets(self, batch, features=None):
        found = super().targets(batch, features)
        for source in self._splits.keys() & found.keys():
            found[source]["hidden"] = found[source].pop("output")
        return found

    def choose_defaults(self, features, batch):
        """Returns `False`: a language model has one output of classes."""
        return False

    def check_heads(self, features, answers):
        """Does nothing: `check` has raised all errors, and there are no logits to look at."""

    def check_labels(self, batch, features):
        """Raises an error for labels that are no class ids."""
        vocabulary = self._split.head(features["hidden"]).vocabulary
        labels = None if batch.labels is None else ops.convert_to_numpy(batch.labels)
        wrong = () if labels is None else labels[(labels < 0) | (labels >= vocabulary)]
        if len(wrong):
            raise ValueError(
                f"Labels must be class ids in [0, {vocabulary}). Received: {wrong[0]}."
            )

    def measure(self, features, targets, batch):
        return self.measured_output(features, targets, batch)[0]

    def measured_output(self, features, targets, batch):
        hidden, judge = features["hidden"], self._judge
        answers = {**targets, **self.targets(batch, features)}
        terms = [term for term in self.terms if reads_logits(term)]
        counts = {term: weights.product(term.masks, "output", hidden, batch, term.name)
                  for term in terms}  # fmt: skip
        judges = self.labels or judge.judges_words
        labels = batch.labels if judges else None
        found = [*counts.values(), *([] if labels is None else [of_labels(hidden, batch)])]
        student = self._split.head(silenced(hidden, found))
        measured, output = {}, None
        for term in terms or [None]:
            teacher = term and self._target(term, answers, counts[term])
            blocks = fused.measure(student, labels=labels, teacher=teacher, loss=term and term.loss,
                                   accuracy=judge.judges_words)  # fmt: skip
            if labels is not None:
                output, labels = judge.judged(blocks, hidden), None  # they count once
            if term is not None:
                measured[term.name] = term.weighed(blocks.divergence, counts[term])
        others = [term for term in self.terms if term.name not in measured]
        measured |= {term.name: term(features, answers[term.source], batch,
                                     self.layers.get(term.name)) for term in others}  # fmt: skip
        return {term.name: measured[term.name] for term in self.terms}, output

    def _target(self, term, answers, counts):
        if term.source in self._splits:
            hidden = silenced(answers[term.source]["hidden"], [counts])
            return self._splits[term.source].head(hidden)
        target = answers[term.source]["output"]
        if isinstance(target, TopK):
            parts = (silenced(part, [counts]) for part in target[1:3])
            return TopK(target.ids, *parts, target.temperature)
        raise ValueError(
            f"With `fused_head=True` the cache of `{term.name}` must hold a `TopK` instead of "
            "whole logits. Write the cache with `top_k=...`. Received: a tensor of shape "
            f"{tuple(target.shape)}"
        )


def is_output(path):
    """Returns whether a path names the model's output, or a part of it."""
    return path.partition(":")[0] == "output"


def reads_logits(term):
    """Returns whether a term compares outputs."""
    return any(is_output(path) for path in tree.flatten([term.student, term.teacher]))


def of_labels(hidden, batch):
    """Returns the weights of the labels' loss: the sample weight, and Keras's mask."""
    return weights.product(("sample_weight",), "output", hidden, batch, "labels")


def silenced(values, counts):
    """Sets values without weight to zero; all count if one of the weights is `None`."""
    if not counts or any(count is None for count in counts):
        return values
    rank = max((len(count.shape) for count in counts), default=0)
    alive = [weights.expanded(ops.cast(count, "float32"), rank) != 0 for count in counts]
    alive = functools.reduce(ops.logical_or, alive)
    return weights.silence(values, ops.cast(alive, "float32"), (1,))
