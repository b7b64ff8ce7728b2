"""Losses on attention scores: (batch, heads, queries, keys), before the softmax."""

import math

import keras
from keras import ops

from keras_distill.losses import masks
from keras_distill.losses.arithmetic import at_least
from keras_distill.losses.distillation_loss import DistillationLoss, one_of
from keras_distill.losses.softened import LOWEST, expectation, forward_kl

RULED_OUT = -1e9  # the score of a key that a query may not see; padded keys have LOWEST
LOW = -1e2  # every key that a query may see has a higher score


def _log_attention(scores, mask):
    """Returns the log-softmax of scores (batch, heads, queries, keys) over the keys that count."""
    scores = at_least(scores, RULED_OUT)  # others may mark such keys with -inf
    real = masks.tokens(mask, scores)
    if real is not None:
        scores = ops.where(real[:, None, None, :] > 0, scores, LOWEST)
    return ops.log_softmax(scores, axis=-1)


def attention_divergence(y_true, y_pred, mask):
    """Returns the divergence of attention, averaged over heads: (batch, queries)."""
    log_teacher, log_student = (_log_attention(scores, mask) for scores in (y_true, y_pred))
    return ops.mean(forward_kl(log_teacher, log_student), axis=1)


class _AttentionLoss(DistillationLoss):
    """A loss on attention scores, for each head or for the heads together."""

    config = ("heads", "cross")
    token_axes = (2, 3)

    def __init__(self, heads, cross, **kwargs):
        super().__init__(**kwargs)
        self.heads = one_of("heads", heads, (None, "mean", "sum"))
        self.same_shape = heads is None
        self.cross = bool(cross)
        if cross:
            self.token_axes = (2,)

    def _keys(self, mask):
        """Returns the mask of the keys if they are the queries' own tokens."""
        return None if self.cross else mask

    def _merged(self, scores):
        if self.heads is None:
            return scores
        reduce = ops.mean if self.heads == "mean" else ops.sum
        return reduce(scores, axis=1, keepdims=True)


@keras.saving.register_keras_serializable(package="keras_distill")
class AttentionDivergence(_AttentionLoss):
    """Kullback-Leibler divergence of attention distributions, averaged over heads.

    `loss(q) = mean_h sum_k a_teacher(h, q, k) * (log a_teacher(h, q, k) - log a_student(h, q, k))`
    with `a = softmax(scores)` over the keys that the mask counts.

    Args:
        heads: `None` compares each head with its counterpart. `"mean"` and `"sum"` compare the mean
            or the sum of the scores of all heads, so that the numbers of heads may differ. Defaults
            to `None`.
        cross: whether the keys are tokens of another sequence than the queries, as in a decoder's
            attention to its encoder. The mask then counts the queries alone, and very low scores
            mark the padded keys, as taps show them. Set it also if the mask leaves out tokens that
            the queries see, such as prompts that `sample_weight` leaves out. Otherwise the loss
            does not compare attention to these tokens. Defaults to `False`.
        name: the loss's name. Defaults to `"attention_divergence"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's scores before the softmax, (batch, heads, queries, keys).
        y_pred: the student's scores, of the same shape.
        mask: weights of the queries' tokens, (batch, tokens), 0 for padding.

    Returns:
        One value per query: (batch, queries).

    Raises:
        ValueError: if `heads` is none of these.

    Example:

    ```python
    scores = "transformer_layer_0/self_attention_layer:scores"
    Term(losses.AttentionDivergence(), student=scores, teacher=scores,
         mask="input:padding_mask")
    ```

    Reference:
        - [Wang et al., 2020](https://arxiv.org/abs/2002.10957)
    """

    needs = ("mask",)

    def __init__(self, heads: str | None = None, cross: bool = False, **kwargs):
        super().__init__(heads, cross, **kwargs)

    def call(self, y_true, y_pred, mask=None):
        return attention_divergence(self._merged(y_true), self._merged(y_pred), self._keys(mask))


@keras.saving.register_keras_serializable(package="keras_distill")
class AttentionCrossEntropy(_AttentionLoss):
    """Cross-entropy of the student's attention under the teacher's, averaged over heads.

    `loss(q) = -mean_h sum_k a_teacher(h, q, k) * log a_student(h, q, k)` with `a = softmax(scores)`
    over the keys that the mask counts: the divergence plus the teacher's entropy.

    Args:
        heads: `None` compares each head with its counterpart. `"mean"` and `"sum"` compare the mean
            or the sum of the scores of all heads, so that the numbers of heads may differ. Defaults
            to `None`.
        cross: whether the keys are tokens of another sequence than the queries, as in a decoder's
            attention to its encoder. The mask then counts the queries alone, and very low scores
            mark the padded keys, as taps show them. Set it also if the mask leaves out tokens that
            the queries see, such as prompts that `sample_weight` leaves out. Otherwise the loss
            does not compare attention to these tokens. Defaults to `False`.
        threshold: keys that the teacher scores at or below it have no weight. `None` means no
            limit. TextBrewer uses -1e-3 if it has no mask. Defaults to `None`.
        name: the loss's name. Defaults to `"attention_cross_entropy"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's scores before the softmax, (batch, heads, queries, keys).
        y_pred: the student's scores, of the same shape.
        mask: weights of the queries' tokens, (batch, tokens), 0 for padding.

    Returns:
        One value per query: (batch, queries).

    Raises:
        ValueError: if `heads` is none of these.

    Example:

    ```python
    scores = "transformer_layer_0/self_attention_layer:scores"
    Term(losses.AttentionCrossEntropy(), student=scores, teacher=scores,
         mask="input:padding_mask")
    ```

    Reference:
        - [Yang et al., 2020](https://arxiv.org/abs/2002.12620)
    """

    needs = ("mask",)
    config = ("threshold",)

    def __init__(
        self,
        heads: str | None = None,
        threshold: float | None = None,
        cross: bool = False,
        **kwargs,
    ):
        super().__init__(heads, cross, **kwargs)
        self.threshold = threshold

    def call(self, y_true, y_pred, mask=None):
        y_true, y_pred = self._merged(y_true), self._merged(y_pred)
        mask = self._keys(mask)
        log_teacher = _log_attention(y_true, mask)
        if self.threshold is not None:
            log_teacher = ops.where(y_true > self.threshold, log_teacher, LOWEST)
        return -ops.mean(expectation(log_teacher, _log_attention(y_pred, mask)), axis=1)


@keras.saving.register_keras_serializable(package="keras_distill")
class AttentionMSE(_AttentionLoss):
    """Mean squared error of attention scores, TinyBERT's attention loss of one layer.

    `loss(q) = mean_h mean_k (s_teacher(h, q, k) - s_student(h, q, k))^2` over the keys that the
    mask counts. Scores at or below the threshold are 0 on either side. A batch's loss is the mean
    over its queries. TextBrewer takes the mean over all scores, so a query of a sequence of `n`
    tokens weighs `n` there.

    Args:
        heads: `None` compares each head with its counterpart. `"mean"` and `"sum"` compare the mean
            or the sum of the scores of all heads, so that the numbers of heads may differ. Defaults
            to `None`.
        cross: whether the keys are tokens of another sequence than the queries, as in a decoder's
            attention to its encoder. The mask then counts the queries alone. Keys that the teacher
            scores at -1e2 or lower, as it scores padding, do not count. Set it also if the mask
            leaves out tokens that the queries see, such as prompts that `sample_weight` leaves out.
            Otherwise the loss does not compare attention to these tokens. Defaults to `False`.
        threshold: scores at or below it count as 0. `None` means no limit. TextBrewer uses -1e-3
            without a mask and none with one. Defaults to `-1e2`.
        name: the loss's name. Defaults to `"attention_mse"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's scores before the softmax, (batch, heads, queries, keys).
        y_pred: the student's scores, of the same shape.
        mask: weights of the queries' tokens, (batch, tokens), 0 for padding.

    Returns:
        One value per query: (batch, queries).

    Raises:
        ValueError: if `heads` is none of these.

    Example:

    ```python
    scores = "transformer_layer_0/self_attention_layer:scores"
    Term(losses.AttentionMSE(), student=scores, teacher=scores, mask="input:padding_mask")
    ```

    Reference:
        - [Jiao et al., 2020](https://arxiv.org/abs/1909.10351)
    """

    needs = ("mask",)
    config = ("threshold",)

    def __init__(
        self, heads: str | None = None, threshold: float | None = LOW, cross: bool = False, **kwargs
    ):
        super().__init__(heads, cross, **kwargs)
        self.threshold = threshold

    def call(self, y_true, y_pred, mask=None):
        squares = ops.square(self._clipped(y_true) - self._clipped(y_pred))
        if not self.cross:
            return masks.mean_over_tokens(ops.mean(squares, axis=1), mask)
        limit = LOW if self.threshold is None else min(LOW, self.threshold)
        seen = self._merged(y_true) > limit
        count = masks.at_least_one(ops.sum(ops.cast(seen, squares.dtype), axis=-1))
        return ops.mean(ops.sum(ops.where(seen, squares, 0.0), axis=-1) / count, axis=1)

    def _clipped(self, scores):
        scores = self._merged(scores)
        threshold = -math.inf if self.threshold is None else self.threshold
        return ops.where(scores > threshold, scores, 0.0)
