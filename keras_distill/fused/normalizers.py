"""Sums over the vocabulary that come block by block: log-sum-exp by a running maximum."""

from typing import Any, NamedTuple

from keras_distill.losses.softened import LOWEST

import tensorflow as tf  # isort: skip


class LogSumExp(NamedTuple):
    """`log sum_c exp(logit_c)` of the blocks so far, and a mean under that softmax.

    `total` is the sum of `exp(logit - highest)`; `mean` the same sum times values.
    """

    highest: Any
    total: Any
    mean: Any

    @classmethod
    def empty(cls, tokens):
        """Of no blocks, for a number of tokens."""
        zeros = tf.zeros((tokens,))
        return cls(zeros + LOWEST, zeros, zeros)

    def joined(self, found, values=None):
        """With a block of logits (tokens, size), and of values to average."""
        highest = tf.maximum(self.highest, tf.reduce_max(found, axis=1))
        scale = tf.exp(self.highest - highest)
        powers = tf.exp(found - highest[:, None])
        mean = self.mean
        if values is not None:
            mean = mean * scale + tf.reduce_sum(powers * values, axis=1)
        return LogSumExp(highest, self.total * scale + tf.reduce_sum(powers, axis=1), mean)

    def value(self):
        """The log-sum-exp, (tokens,)."""
        return self.highest + tf.math.log(self.total)

    def expectation(self):
        """The mean of the values, (tokens,)."""
        return self.mean / self.total

    def softmax(self, found):
        """A block's probabilities."""
        return tf.exp(found - self.value()[:, None])


class Best(NamedTuple):
    """The likeliest word so far, the first of equals."""

    logit: Any
    word: Any

    @classmethod
    def empty(cls, tokens):
        """Of no blocks, for a number of tokens."""
        return cls(tf.fill((tokens,), -float("inf")), tf.zeros((tokens,), tf.int32))

    def joined(self, found, start):
        """With a block of logits."""
        word = tf.argmax(found, axis=1, output_type=tf.int32)
        logit = tf.reduce_max(found, axis=1)
        better = logit > self.logit
        return Best(tf.where(better, logit, self.logit), tf.where(better, word + start, self.word))
