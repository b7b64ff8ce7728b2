"""The forward Kullback-Leibler divergence at a high temperature, where both sides are almost flat.

With `w = (t - s) / T` less its mean under the teacher's softmax `p`, the divergence is
`log(1 + sum_c p_c * (exp(-w_c) - 1 + w_c))`, a sum of positive terms, and the slope is
`softmax(s) - p = p * (exp(-w) / (1 + sum) - 1)`. Neither is a difference of nearly equal numbers:
times `T^2` its rounding would exceed the divergence. Tokens with a word further off than `NEAR` are
computed the plain way.
"""

import math
from typing import Any, NamedTuple

from keras import ops

from keras_distill.fused.head import Head, logits
from keras_distill.fused.normalizers import LogSumExp

FLAT = 8.0  # the temperature from which it is used
NEAR = 0.5
SERIES = [(-1) ** power / math.factorial(power) for power in range(2, 9)]


class FlatDivergence(NamedTuple):
    """`KLDivergence` from a teacher with a `Head`, at a high temperature."""

    loss: Any
    teacher: Head
    temperature: Any
    two_passes = True

    @property
    def factor(self):
        """`T^2` if the loss has this factor."""
        return self.temperature**2 if self.loss.compensate else 1.0

    def empty(self, zeros):
        """Returns the state before the first block, from a zero for each token."""
        return {"student": LogSumExp.empty(zeros), "teacher": LogSumExp.empty(zeros)}

    def first(self, state, found, start, size):
        """Returns the state of the first pass after one more block."""
        student, teacher = self._scaled(found, start, size)
        return {
            "student": state["student"].joined(student),
            "teacher": state["teacher"].joined(teacher, teacher - student),
        }

    def nothing(self, zeros):
        """Returns the sums of the second pass before the first block."""
        return zeros, zeros

    def second(self, sums, state, found, start, size):
        """Returns the sum of `p * (exp(-w) - 1 + w)` and the greatest `|w|` after a block."""
        _, _, p, apart = self._inside(state, found, start, size)
        excess = ops.sum(p * _series(ops.clip(apart, -NEAR, NEAR)), axis=1)
        return sums[0] + excess, ops.maximum(sums[1], ops.max(ops.abs(apart), axis=1))

    def value(self, state):
        """Returns the divergence, (tokens,), without the factor."""
        excess, furthest = state["sums"]
        gap = state["student"].value() - state["teacher"].value()
        plain = state["teacher"].expectation() + gap
        return ops.where(furthest <= NEAR, ops.log1p(excess), plain)

    def slopes(self, state, upstream, found, start, size):
        """Returns the gradient with respect to a block's logits."""
        excess, furthest = (each[:, None] for each in state["sums"])
        student, _, p, apart = self._inside(state, found, start, size)
        near = p * (ops.expm1(-ops.clip(apart, -NEAR, NEAR)) - excess) / (1 + excess)
        slope = ops.where(furthest <= NEAR, near, state["student"].softmax(student) - p)
        return upstream[:, None] / self.temperature * slope

    def _scaled(self, found, start, size):
        teacher = ops.cast(logits(self.teacher, start, size), found.dtype)
        return found / self.temperature, teacher / self.temperature

    def _inside(self, state, found, start, size):
        """Returns both sides' logits over the temperature, the teacher's probabilities, and `w`."""
        student, teacher = self._scaled(found, start, size)
        mean = state["teacher"].expectation()[:, None]
        return student, teacher, state["teacher"].softmax(teacher), teacher - student - mean


def _series(apart):
    """Returns `exp(-apart) - 1 + apart` for values near zero."""
    total = SERIES[-1]
    for factor in SERIES[-2::-1]:
        total = total * apart + factor
    return ops.square(apart) * total
