"""Measures of answers for each token or pixel, against a plain loop."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill import report
from keras_distill.report.measures import right_of_examples

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, 9, (10, 5))
LABELS = RANDOM.integers(0, 4, (10, 5))
WEIGHTS = (RANDOM.random((10, 5)) > 0.3).astype("float32")


def tagger(seed, units=4, activation=None):
    keras.utils.set_random_seed(seed)
    answer = layers.Dense(units, activation, kernel_initializer="random_normal")
    return keras.Sequential([keras.Input((5,), dtype="int32"), layers.Embedding(9, 8), answer])


def batches(labels, weights=None):
    parts = [part for part in (TOKENS, labels, weights) if part is not None]
    return [tuple(part[rows] for part in parts) for rows in (slice(0, 6), slice(6, 10))]


def log_softmax(z):
    z = z.astype("float64")
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def test_every_token_that_counts_is_an_example():
    student, teacher = tagger(1), tagger(2)
    ours, theirs = (log_softmax(model.predict(TOKENS, verbose=0)) for model in (student, teacher))
    right, nll, agree, kl = [], [], [], []
    for i, j in np.argwhere(WEIGHTS):
        p, q, y = theirs[i, j], ours[i, j], LABELS[i, j]
        right.append(q.argmax() == y)
        nll.append(-q[y])
        agree.append(q.argmax() == p.argmax())
        kl.append(sum(np.exp(p) * (p - q)))
    wild = np.where(WEIGHTS, LABELS, -100)  # what is not counted is not looked at
    found = report.measure(student, batches(wild, WEIGHTS), teacher)
    assert found["accuracy"] == pytest.approx(np.mean(right))
    assert found["nll"] == pytest.approx(np.mean(nll), rel=1e-6)
    assert found["agreement"] == pytest.approx(np.mean(agree))
    assert found["kl_to_teacher"] == pytest.approx(np.mean(kl), rel=1e-5)
    log_probs, labels = report.predictions(student, batches(wild, WEIGHTS))
    assert log_probs.shape == (WEIGHTS.sum(), 4) and report.scores(log_probs, labels) == {
        name: found[name] for name in ("accuracy", "expected_calibration_error", "nll")
    }
    hits, counted = right_of_examples(student, batches(wild, WEIGHTS))
    expected = ((ours.argmax(-1) == LABELS) * WEIGHTS).sum(1)
    assert hits.tolist() == expected.tolist() and counted.tolist() == WEIGHTS.sum(1).tolist()


@pytest.mark.parametrize("labels", [LABELS[..., None].astype("float32"), np.eye(4)[LABELS]])
def test_labels_in_other_forms(labels):
    whole = report.measure(tagger(1), batches(LABELS))
    assert report.measure(tagger(1), batches(labels)) == whole
    some = np.arange(10) % 2  # one weight for each example
    odd = report.measure(tagger(1), [(TOKENS[1::2], LABELS[1::2])])
    assert report.measure(tagger(1), batches(labels, some)) == pytest.approx(odd)


def test_one_unit_for_each_pixel():
    yes = (LABELS > 1).astype("float32")
    logits, sigmoid = tagger(1, 1), tagger(1, 1, "sigmoid")
    found = [report.measure(model, batches(yes[..., None])) for model in (logits, sigmoid)]
    expected = np.mean((logits.predict(TOKENS, verbose=0)[..., 0] > 0) == yes)
    assert found[0]["accuracy"] == found[1]["accuracy"] == pytest.approx(expected)
    assert found[0]["nll"] == pytest.approx(found[1]["nll"], rel=1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"Labels must be classes .* Received: \(6, 4\)"):
        report.measure(tagger(1), batches(LABELS[:, :4]))
    with pytest.raises(ValueError, match="Sample weights must fit outputs of shape"):
        report.measure(tagger(1), batches(LABELS, WEIGHTS[:, :4]))
    with pytest.raises(ValueError, match=r"integers in \[0, 4\)"):
        report.measure(tagger(1), batches(LABELS + 1))
    with pytest.raises(ValueError, match="must have the same classes"):
        report.measure(tagger(1), batches(LABELS), tagger(1, 3))
    with pytest.raises(ValueError, match="at least one batch"):
        report.measure(tagger(1), [])
