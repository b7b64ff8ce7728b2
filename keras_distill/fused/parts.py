"""What is summed over the vocabulary: the labels' cross-entropy, and divergences from a teacher.

Each part passes over the blocks up to three times: `first` collects normalizers, `second` (where
a part has one) what needs them, `slopes` gives the gradient with respect to a block's logits.
"""

from typing import Any, NamedTuple

from keras_distill.batch import TopK
from keras_distill.fused.head import Head, logits
from keras_distill.fused.normalizers import Best, LogSumExp
from keras_distill.fused.places import Places
from keras_distill.losses import KLDivergence
from keras_distill.losses.softened import LOWEST
from keras_distill.schedules import is_number

import tensorflow as tf  # isort: skip


class Labels(NamedTuple):
    """`-log softmax(logits)[label]`, and whether the likeliest word is the label."""

    labels: Any
    accuracy: bool
    two_passes = False

    def empty(self, tokens):
        """Of no blocks."""
        best = {"best": Best.empty(tokens)} if self.accuracy else {}
        return {"all": LogSumExp.empty(tokens), "own": tf.fill((tokens,), float("nan")), **best}

    def first(self, state, found, start, size):
        """With a block."""
        places = Places(self.labels[:, None], start, size)
        own = tf.where(places.inside[:, 0], places.read(found)[:, 0], state["own"])
        best = {"best": state["best"].joined(found, start)} if self.accuracy else {}
        return {"all": state["all"].joined(found), "own": own, **best}

    def value(self, state):
        """The cross-entropy, (tokens,); NaN for a label that is no word."""
        return state["all"].value() - state["own"]

    def correct(self, state):
        """1 where the label is the likeliest word, (tokens,)."""
        return tf.cast(state["best"].word == self.labels, tf.float32)

    def slopes(self, state, upstream, found, start, size):
        """The gradient with respect to a block's logits."""
        upstream = upstream[:, None]
        places = Places(self.labels[:, None], start, size)
        return places.add(upstream * state["all"].softmax(found), -upstream)


class Divergence(NamedTuple):
    """A divergence from a teacher of whom there is a `Head`.

    The forward KL's gradient, `softmax - softmax`, needs no second pass.
    """

    loss: Any
    teacher: Head
    temperature: Any
    learns: bool  # whether the teacher has gradients too

    @property
    def two_passes(self):
        """Whether the gradient's sum over the vocabulary must be known first."""
        return type(self.loss) is not KLDivergence or self.learns

    def empty(self, tokens):
        """Of no blocks."""
        return {"student": LogSumExp.empty(tokens), "teacher": LogSumExp.empty(tokens)}

    def first(self, state, found, start, size):
        """With a block."""
        student = scaled(found, self.temperature)
        teacher = scaled(logits(self.teacher, start, size), self.temperature)
        gap = None if self.two_passes else teacher - student
        return {
            "student": state["student"].joined(student),
            "teacher": state["teacher"].joined(teacher, gap),
        }

    def nothing(self, tokens):
        """The second pass, of no blocks."""
        return tuple(tf.zeros((tokens,)) for _ in range(3))

    def second(self, sums, state, found, start, size):
        """The value and the sums of its gradients, with a block."""
        _, _, value, slopes = self._inside(state, found, start, size)
        return tuple(a + b for a, b in zip(sums, (value, *(tf.reduce_sum(s, 1) for s in slopes))))

    def value(self, state):
        """The divergence, (tokens,), without the factor `T^2`."""
        if self.two_passes:
            return state["sums"][0]
        gap = state["student"].value() - state["teacher"].value()
        return state["teacher"].expectation() + gap

    def slopes(self, state, upstream, found, start, size):
        """The gradients with respect to a block's logits: the student's, the teacher's."""
        upstream = upstream[:, None] / self.temperature
        if not self.two_passes:
            given = scaled(logits(self.teacher, start, size), self.temperature)
            student = state["student"].softmax(scaled(found, self.temperature))
            return upstream * (student - state["teacher"].softmax(given)), None, None
        student, teacher, _, slopes = self._inside(state, found, start, size)
        _, *totals = state["sums"]
        student = upstream * (slopes[0] - tf.exp(student) * totals[0][:, None])
        if not self.learns:
            return student, None, None
        teacher = upstream * (slopes[1] - tf.exp(teacher) * totals[1][:, None])
        return student, teacher, logits(self.teacher, start, size)

    def _log_probabilities(self, state, found, start, size):
        values = {"student": found, "teacher": logits(self.teacher, start, size)}
        for side, value in values.items():
            inside = scaled(value, self.temperature) - state[side].value()[:, None]
            yield tf.where(value <= LOWEST, LOWEST, inside)

    def _inside(self, state, found, start, size):
        """Log-probabilities of a block, its part of the value, the gradient as if all were free."""
        student, teacher = self._log_probabilities(state, found, start, size)
        with tf.GradientTape() as tape:
            tape.watch([student, teacher])
            value = self.loss.divergence(teacher, student)
        return student, teacher, value, _zeros_for_none(tape, value, [student, teacher])


class TopKDivergence(NamedTuple):
    """A divergence from a teacher's `TopK`: its `k` classes, and all others as one."""

    loss: Any
    top: TopK
    temperature: Any
    two_passes = False

    def empty(self, tokens):
        """Of no blocks."""
        kept = tf.zeros((tokens, tf.shape(self.top.ids)[1]))
        return {"rest": LogSumExp.empty(tokens), "kept": kept}

    def first(self, state, found, start, size):
        """With a block."""
        places, found = Places(self.top.ids, start, size), scaled(found, self.temperature)
        return {
            "rest": state["rest"].joined(places.lower(found, LOWEST)),
            "kept": state["kept"] + places.read(found),
        }

    def value(self, state):
        """The divergence, (tokens,), without the factor `T^2`."""
        return self._inside(state)[0]

    def slopes(self, state, upstream, found, start, size):
        """The gradient with respect to a block's logits.

        A word of the rest gets `softmax among the rest` times one number a token.
        """
        free = upstream[:, None] / self.temperature * self._inside(state)[1]
        total = tf.reduce_sum(free, 1, keepdims=True)
        free -= total * tf.exp(self._log_probs(state))  # they sum to one
        places, found = Places(self.top.ids, start, size), scaled(found, self.temperature)
        among = state["rest"].softmax(places.lower(found, LOWEST))
        return places.add(free[:, -1:] * among, free[:, :-1])

    def _log_probs(self, state):
        """The student's, of the `k` classes and of the rest: (tokens, k + 1)."""
        student = tf.concat([state["kept"], state["rest"].value()[:, None]], 1)
        return tf.maximum(tf.nn.log_softmax(student), LOWEST)

    def _inside(self, state):
        """The value, and its gradient with respect to the log-probabilities of `k + 1` classes."""
        student = self._log_probs(state)
        teacher = tf.concat([self.top.log_probs, self.top.log_tail[:, None]], 1)
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = self.loss.divergence(tf.maximum(teacher, LOWEST), student)
        return value, _zeros_for_none(tape, value, [student])[0]


def scaled(found, temperature):
    """Logits over the temperature."""
    return found if is_number(temperature) and temperature == 1 else found / temperature


def _zeros_for_none(tape, value, sources):
    return tape.gradient(value, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
