"""Losses that are summed over the vocabulary: the labels' cross-entropy, and divergences.

Each part passes over the blocks up to three times. `first` collects normalizers. `second`, which
some parts have, collects what needs the normalizers. `slopes` gives the gradient with respect to a
block's logits. `factor` multiplies the part's value.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_distill.batch import TopK
from keras_distill.fused.head import Head, logits
from keras_distill.fused.normalizers import Best, LogSumExp
from keras_distill.fused.places import Places
from keras_distill.fused.primitives import derivative
from keras_distill.losses import KLDivergence
from keras_distill.losses.softened import LOWEST
from keras_distill.schedules import is_number


class Labels(NamedTuple):
    """`-log softmax(logits)[label]`, and whether the likeliest word is the label."""

    labels: Any
    accuracy: bool
    two_passes = False
    factor = 1.0

    def empty(self, zeros):
        """Returns the state before the first block, from a zero for each token."""
        best = {"best": Best.empty(zeros)} if self.accuracy else {}
        return {"all": LogSumExp.empty(zeros), "own": zeros + float("nan"), **best}

    def first(self, state, found, start, size):
        """Returns the state after one more block."""
        places = Places(self.labels[:, None], start, size)
        own = ops.where(places.inside[:, 0], places.read(found)[:, 0], state["own"])
        best = {"best": state["best"].joined(found, start)} if self.accuracy else {}
        return {"all": state["all"].joined(found), "own": own, **best}

    def value(self, state):
        """Returns the cross-entropy, (tokens,); NaN for a label that is no word."""
        return state["all"].value() - state["own"]

    def correct(self, state):
        """Returns 1 where the label is the likeliest word, (tokens,)."""
        return ops.cast(state["best"].word == self.labels, state["own"].dtype)

    def slopes(self, state, upstream, found, start, size):
        """Returns the gradient with respect to a block's logits."""
        upstream = upstream[:, None]
        places = Places(self.labels[:, None], start, size)
        return places.add(upstream * state["all"].softmax(found), -upstream)


class Divergence(NamedTuple):
    """A divergence from a teacher with a `Head`.

    The forward KL's value, `E_p[t - s] + log sum exp(s) - log sum exp(t)`, and its gradient,
    `softmax(s) - softmax(t)`, need no second pass.
    """

    loss: Any
    teacher: Head
    temperature: Any
    learns: bool  # whether the teacher gets gradients too

    @property
    def two_passes(self):
        """Whether value and gradient need the normalizers before they are summed."""
        return type(self.loss) is not KLDivergence or self.learns

    @property
    def factor(self):
        """`T^2` if the loss has this factor."""
        return self.temperature**2 if self.loss.compensate else 1.0

    def empty(self, zeros):
        """Returns the state before the first block, from a zero for each token."""
        return {"student": LogSumExp.empty(zeros), "teacher": LogSumExp.empty(zeros)}

    def first(self, state, found, start, size):
        """Returns the state of the first pass after one more block."""
        student = scaled(found, self.temperature)
        teacher = scaled(self._teachers(found, start, size), self.temperature)
        gap = None if self.two_passes else teacher - student
        return {
            "student": state["student"].joined(student),
            "teacher": state["teacher"].joined(teacher, gap),
        }

    def nothing(self, zeros):
        """Returns the sums of the second pass before the first block."""
        return zeros, zeros, zeros

    def second(self, sums, state, found, start, size):
        """Returns the value and the sums of its gradients after one more block."""
        _, _, value, slopes = self._inside(state, found, start, size)
        return tuple(a + b for a, b in zip(sums, (value, *(ops.sum(s, 1) for s in slopes))))

    def value(self, state):
        """Returns the divergence, (tokens,), without the factor."""
        if self.two_passes:
            return state["sums"][0]
        gap = state["student"].value() - state["teacher"].value()
        return state["teacher"].expectation() + gap

    def slopes(self, state, upstream, found, start, size):
        """Returns the gradients with respect to a block's logits, for student and teacher."""
        upstream = upstream[:, None] / self.temperature
        if not self.two_passes:
            given = scaled(self._teachers(found, start, size), self.temperature)
            student = state["student"].softmax(scaled(found, self.temperature))
            return upstream * (student - state["teacher"].softmax(given)), None, None
        student, teacher, _, slopes = self._inside(state, found, start, size)
        _, *totals = state["sums"]
        student = upstream * (slopes[0] - ops.exp(student) * totals[0][:, None])
        if not self.learns:
            return student, None, None
        teacher = upstream * (slopes[1] - ops.exp(teacher) * totals[1][:, None])
        return student, teacher, self._teachers(found, start, size)

    def _teachers(self, found, start, size):
        """Returns the teacher's logits of a block, in the dtype of the student's."""
        return ops.cast(logits(self.teacher, start, size), found.dtype)

    def _log_probabilities(self, state, found, start, size):
        values = {"student": found, "teacher": self._teachers(found, start, size)}
        for side, value in values.items():
            inside = scaled(value, self.temperature) - state[side].value()[:, None]
            yield ops.where(value <= LOWEST, LOWEST, inside)

    def _inside(self, state, found, start, size):
        """Returns a block's log-probabilities, its part of the value, and the raw gradient."""
        student, teacher = self._log_probabilities(state, found, start, size)
        value, slopes = derivative(lambda s, t: self.loss.divergence(t, s), student, teacher)
        return student, teacher, value, slopes


class TopKDivergence(NamedTuple):
    """A divergence from a teacher's `TopK`: its `k` classes, and all others as one."""

    loss: Any
    top: TopK
    temperature: Any
    two_passes = False

    @property
    def factor(self):
        """`T^2` if the loss has this factor."""
        return self.temperature**2 if self.loss.compensate else 1.0

    def empty(self, zeros):
        """Returns the state before the first block, from a zero for each token."""
        kept = ops.zeros_like(self.top.log_probs)
        return {"rest": LogSumExp.empty(zeros), "kept": ops.cast(kept, zeros.dtype)}

    def first(self, state, found, start, size):
        """Returns the state after one more block."""
        places, found = Places(self.top.ids, start, size), scaled(found, self.temperature)
        return {
            "rest": state["rest"].joined(places.lower(found, LOWEST)),
            "kept": state["kept"] + places.read(found),
        }

    def value(self, state):
        """Returns the divergence, (tokens,), without the factor."""
        return self._inside(state)[0]

    def slopes(self, state, upstream, found, start, size):
        """Returns the gradient with respect to a block's logits.

        A word outside of the `k` gets its softmax among these words, times one number per token.
        """
        free = upstream[:, None] / self.temperature * self._inside(state)[1]
        total = ops.sum(free, 1, keepdims=True)
        free -= total * ops.exp(self._log_probs(state))  # they sum to one
        places, found = Places(self.top.ids, start, size), scaled(found, self.temperature)
        among = state["rest"].softmax(places.lower(found, LOWEST))
        return places.add(free[:, -1:] * among, free[:, :-1])

    def _log_probs(self, state):
        """Returns the student's log-probabilities of `k` classes and the rest: (tokens, k + 1)."""
        student = ops.concatenate([state["kept"], state["rest"].value()[:, None]], axis=1)
        return ops.maximum(ops.log_softmax(student), LOWEST)

    def _inside(self, state):
        """Returns the value, and its gradient with respect to the `k + 1` log-probabilities."""
        student = self._log_probs(state)
        teacher = ops.concatenate([self.top.log_probs, self.top.log_tail[:, None]], axis=1)
        teacher = ops.cast(ops.maximum(teacher, LOWEST), student.dtype)
        value, (slope,) = derivative(lambda s: self.loss.divergence(teacher, s), student)
        return value, slope


def scaled(found, temperature):
    """Divides logits by the temperature."""
    return found if is_number(temperature) and temperature == 1 else found / temperature
