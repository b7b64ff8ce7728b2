"""Sums over the vocabulary, block by block: log-sum-exp by a running maximum."""

from typing import Any, NamedTuple

from keras import ops

from keras_distill.fused import primitives
from keras_distill.losses.softened import LOWEST


class LogSumExp(NamedTuple):
    """`log sum_c exp(logit_c)` of the blocks so far, and a mean under that softmax.

    `total` is the sum of `exp(logit - highest)`. `mean` is the same sum of weighted values.
    """

    highest: Any
    total: Any
    mean: Any

    @classmethod
    def empty(cls, zeros):
        """Returns the state before the first block, from a zero for each token."""
        return cls(zeros + LOWEST, zeros, zeros)

    def joined(self, found, values=None):
        """Returns the state after a block of logits (tokens, size), and of values to average."""
        highest = ops.maximum(self.highest, ops.max(found, axis=1))
        scale = ops.exp(self.highest - highest)
        powers = ops.exp(found - highest[:, None])
        mean = self.mean
        if values is not None:
            mean = mean * scale + ops.sum(powers * values, axis=1)
        return LogSumExp(highest, self.total * scale + ops.sum(powers, axis=1), mean)

    def value(self):
        """Returns the log-sum-exp, (tokens,)."""
        return self.highest + ops.log(self.total)

    def expectation(self):
        """Returns the mean of the values, (tokens,)."""
        return self.mean / self.total

    def softmax(self, found):
        """Returns a block's probabilities."""
        return ops.exp(found - self.value()[:, None])


class Best(NamedTuple):
    """The likeliest word so far; the first one of equals."""

    logit: Any
    word: Any

    @classmethod
    def empty(cls, zeros):
        """Returns the state before the first block, from a zero for each token."""
        return cls(zeros - float("inf"), ops.cast(zeros, "int32"))

    def joined(self, found, start):
        """Returns the state after one more block of logits."""
        word, logit = primitives.argmax(found), ops.max(found, axis=1)
        better = logit > self.logit
        return Best(ops.where(better, logit, self.logit),
                    ops.where(better, word + start, self.word))  # fmt: skip
