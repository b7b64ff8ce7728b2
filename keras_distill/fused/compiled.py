"""The losses and metrics that `compile` takes with a fused head, since they need no dense logits.

Their input is `(batch, tokens, 2)`: each token's cross-entropy, and 1 where the likeliest word is
its label.
"""

import sys

import keras

from keras_distill._keras.layers import mask_of
from keras_distill.losses.plain import argument_of


class GivenCrossEntropy(keras.losses.Loss):
    """A cross-entropy that was measured by blocks. Keras applies weights and reduction."""

    def call(self, y_true, y_pred):
        return y_pred[..., 0]


class GivenAccuracy(keras.metrics.Mean):
    """The share of tokens whose likeliest word is the label."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch. `y_pred` includes the labels. Keras's mask counts, as in its metrics."""
        right = y_pred[..., 1]
        if (mask := mask_of(y_pred)) is not None:
            mask = keras.ops.cast(mask, right.dtype)
            sample_weight = mask if sample_weight is None else mask * _by_token(sample_weight)
        return super().update_state(right, sample_weight)


def _by_token(sample_weight):
    """Returns sample weights as (batch, tokens) or (batch, 1)."""
    weight = keras.ops.cast(sample_weight, "float32")
    return weight if len(weight.shape) > 1 else keras.ops.expand_dims(weight, -1)


class GivenPerplexity(keras.metrics.Mean):
    """The exponential of the mean cross-entropy, without the tokens `mask_token_id`."""

    def __init__(self, name="perplexity", mask_token_id=None):
        super().__init__(name=name)
        self.mask_token_id = mask_token_id

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch."""
        if self.mask_token_id is not None:
            known = keras.ops.cast(keras.ops.not_equal(y_true, self.mask_token_id), "float32")
            other = 1.0 if sample_weight is None else keras.ops.cast(sample_weight, "float32")
            sample_weight = known * other
        return super().update_state(y_pred[..., 0], sample_weight)

    def result(self):
        return keras.ops.where(self.count == 0, 0.0, keras.ops.exp(super().result()))


def given_loss(loss):
    """Returns the loss by blocks in place of the compiled loss."""
    if loss is None:
        return None
    kind = keras.losses.SparseCategoricalCrossentropy
    fits = isinstance(loss, kind) and argument_of(loss, "from_logits", False)
    ignores = argument_of(loss, "ignore_class", None) is not None
    if not fits or ignores or argument_of(loss, "label_smoothing", 0):
        raise ValueError(
            "With `fused_head=True` the logits of all tokens are never in memory, so `compile` "
            "takes one loss, `SparseCategoricalCrossentropy(from_logits=True)`, without "
            "`label_smoothing`. Instead of `ignore_class`, give these tokens the `sample_weight` "
            f"0. Received: loss={loss!r}"
        )
    return GivenCrossEntropy(reduction=loss.reduction, name=loss.name)


def given_metrics(metrics):
    """Returns the metrics by blocks in place of the compiled metrics."""
    if metrics is not None and not isinstance(metrics, (list, tuple)):
        raise ValueError(
            f"With `fused_head=True`, `metrics` must be a list. Received: metrics={metrics!r}"
        )
    return None if metrics is None else [_given_metric(metric) for metric in metrics]


def _given_metric(metric):
    if metric in ("accuracy", "acc", "sparse_categorical_accuracy"):
        return GivenAccuracy(name=metric)
    if type(metric) is keras.metrics.SparseCategoricalAccuracy:
        return GivenAccuracy(name=metric.name)
    if _is_perplexity(metric) and metric.from_logits:
        return GivenPerplexity(metric.name, metric.mask_token_id)
    raise ValueError(
        "With `fused_head=True` the logits of all tokens are never in memory, so a metric must be "
        '"accuracy", `SparseCategoricalAccuracy` or KerasHub\'s `Perplexity(from_logits=True)`. '
        f"Received: {metric!r}"
    )


def _is_perplexity(metric):
    """Returns whether a metric is KerasHub's, without an import of KerasHub."""
    hub = sys.modules.get("keras_hub")
    return hub is not None and isinstance(metric, hub.metrics.Perplexity)
