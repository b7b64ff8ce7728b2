"""The loss and metrics of what was measured by blocks are Keras's own of the dense logits."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_distill._keras.layers import set_mask
from keras_distill.fused.compiled import given_loss, given_metrics

ROWS, TOKENS, WORDS = 3, 5, 7
rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(ROWS, TOKENS, WORDS)).astype("float32")
LABELS = rng.integers(0, WORDS, (ROWS, TOKENS))
WEIGHTS = rng.uniform(size=(ROWS, TOKENS)).astype("float32")
MASK = rng.integers(0, 2, (ROWS, TOKENS)).astype(bool)


def judged():
    """Each token's cross-entropy and whether its likeliest word is the label."""
    own = np.take_along_axis(LOGITS, LABELS[..., None], -1)[..., 0]
    entropy = np.log(np.exp(LOGITS).sum(-1)) - own
    return np.stack([entropy, LOGITS.argmax(-1) == LABELS], -1).astype("float32")


def result(metric, y_pred, mask, weights):
    y_pred = ops.convert_to_tensor(y_pred)
    if mask:
        set_mask(y_pred, ops.convert_to_tensor(MASK))
    metric.update_state(ops.convert_to_tensor(LABELS), y_pred, weights)
    return float(metric.result())


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "sum"])
@pytest.mark.parametrize("mask", [False, True])
def test_a_loss(reduction, mask):
    kinds = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    found = []
    for loss, y_pred in ((kinds, LOGITS), (given_loss(kinds), judged())):
        y_pred = ops.convert_to_tensor(y_pred)
        if mask:
            set_mask(y_pred, ops.convert_to_tensor(MASK))
        found.append(float(loss(ops.convert_to_tensor(LABELS), y_pred, sample_weight=WEIGHTS)))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("weights", [None, WEIGHTS, WEIGHTS[:, :1]],
                         ids=["none", "tokens", "rows"])  # fmt: skip
@pytest.mark.parametrize("mask", [False, True])
def test_accuracy(mask, weights):
    metric = keras.metrics.SparseCategoricalAccuracy()
    (given,) = given_metrics([metric])
    found = result(given, judged(), mask, weights)
    assert given.name == metric.name
    right = total = 0.0
    for row, token in np.ndindex(ROWS, TOKENS):
        weight = 1.0 if weights is None else np.broadcast_to(weights, MASK.shape)[row, token]
        weight *= MASK[row, token] if mask else 1.0
        right += weight * (LOGITS[row, token].argmax() == LABELS[row, token])
        total += weight
    assert right / total == pytest.approx(found, rel=1e-5)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["none", "tokens"])
def test_perplexity_of_keras_hub(weights):
    keras_hub = pytest.importorskip("keras_hub")
    metric = keras_hub.metrics.Perplexity(from_logits=True, mask_token_id=3)
    (given,) = given_metrics([metric])
    found = result(given, judged(), False, weights)
    assert result(metric, LOGITS, False, weights) == pytest.approx(found, rel=1e-5)
    with pytest.raises(ValueError, match="a metric must be"):
        given_metrics([keras_hub.metrics.Perplexity(from_logits=False)])


class Perplexity(keras.metrics.Mean):
    """Somebody's own, of the same name."""

    from_logits, mask_token_id = True, None


def test_a_metric_of_the_same_name_is_not_taken_for_it():
    with pytest.raises(ValueError, match="a metric must be"):
        given_metrics([Perplexity()])


def test_what_it_refuses():
    ignoring = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    for loss in ("mse", keras.losses.SparseCategoricalCrossentropy(), ignoring):
        with pytest.raises(ValueError, match="takes one loss"):
            given_loss(loss)
    with pytest.raises(ValueError, match="must be a list"):
        given_metrics({"output": "accuracy"})
    assert given_loss(None) is None and given_metrics(None) is None
