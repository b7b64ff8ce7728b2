"""Losses that see the labels, against loops over the classes."""

import math

import numpy as np
import pytest
from backends import call

from keras_distill.losses import DecoupledKD, KLDivergence, NormalizedKD, WeightedSoftLabels

RANDOM = np.random.default_rng(0)
TEACHER, STUDENT = RANDOM.normal(size=(2, 3, 4)).astype("float32") * 2
LABELS = np.array([2, 0, 3])


def softmax(row):
    powers = [math.exp(one) for one in row]
    return [power / sum(powers) for power in powers]


def kl(p, q):
    return sum(one * math.log(one / other) for one, other in zip(p, q))


def others(row, label):
    return softmax([one for index, one in enumerate(row) if index != label])


def by_row(function, temperature=1.0):
    rows = zip((TEACHER / temperature).tolist(), (STUDENT / temperature).tolist(), LABELS)
    return np.array([function(t, s, label) for t, s, label in rows])


def test_decoupled_kd():
    def of(t, s, label):
        p, q = softmax(t)[label], softmax(s)[label]
        target = kl([p, 1 - p], [q, 1 - q])
        return 4 * (0.5 * target + 3 * kl(others(t, label), others(s, label)))

    found = call(DecoupledKD(0.5, 3.0, temperature=2.0), TEACHER, STUDENT, LABELS)
    np.testing.assert_allclose(found, by_row(of, 2.0), rtol=1e-5)


def test_decoupled_kd_can_be_put_together_again():
    """KD = TCKD + (1 - p_teacher(label)) * NCKD."""
    target = call(DecoupledKD(1.0, 0.0, 1.0), TEACHER, STUDENT, LABELS)
    rest = call(DecoupledKD(0.0, 1.0, 1.0), TEACHER, STUDENT, LABELS)
    share = by_row(lambda t, s, label: 1 - softmax(t)[label])
    expected = call(KLDivergence(), TEACHER, STUDENT)
    np.testing.assert_allclose(target + share * rest, expected, rtol=1e-5)


def test_normalized_kd():
    def of(t, s, label):
        target = -softmax(t)[label] * math.log(softmax(s)[label])
        t, s = ([one / 2 for one in row] for row in (t, s))
        pairs = zip(others(t, label), others(s, label))
        return target - 1.5 * 4 * sum(p * math.log(q) for p, q in pairs)

    found = call(NormalizedKD(temperature=2.0), TEACHER, STUDENT, LABELS)
    np.testing.assert_allclose(found, by_row(of), rtol=1e-5)


def test_weighted_soft_labels():
    def of(t, s, label):
        ratio = math.log(softmax(s)[label]) / math.log(softmax(t)[label])
        pairs = zip(softmax([one / 2 for one in t]), softmax([one / 2 for one in s]))
        return (1 - math.exp(-ratio)) * 4 * -sum(p * math.log(q) for p, q in pairs)

    found = call(WeightedSoftLabels(2.0), TEACHER, STUDENT, LABELS)
    np.testing.assert_allclose(found, by_row(of), rtol=1e-5)


@pytest.mark.parametrize("loss", [DecoupledKD(), NormalizedKD(), WeightedSoftLabels()])
def test_labels_may_be_columns_or_one_hot(loss):
    expected = call(loss, TEACHER, STUDENT, LABELS)
    for labels in (LABELS[:, None], np.eye(4, dtype="float32")[LABELS]):
        np.testing.assert_allclose(call(loss, TEACHER, STUDENT, labels), expected)


@pytest.mark.parametrize("loss", [DecoupledKD(), NormalizedKD(), WeightedSoftLabels()])
def test_labels_are_needed_one_for_each_row(loss):
    with pytest.raises(ValueError, match="needs `labels`"):
        call(loss, TEACHER, STUDENT)
    with pytest.raises(ValueError, match="one class id for each row"):
        call(loss, TEACHER[None], STUDENT[None], LABELS)


@pytest.mark.parametrize("name, loss", [("alpha", DecoupledKD), ("beta", DecoupledKD),
                                        ("gamma", NormalizedKD)])  # fmt: skip
def test_weights_are_not_negative(name, loss):
    with pytest.raises(ValueError, match=f"`{name}` must be non-negative. Received: {name}=-1"):
        loss(**{name: -1})
