"""Losses on outputs, against loops over the classes."""

import math

import numpy as np
import pytest
from backends import call

from keras_distill.losses import BinaryKLDivergence, KLDivergence, LogitsMSE, SoftCrossEntropy

RANDOM = np.random.default_rng(0)
TEACHER, STUDENT = RANDOM.normal(size=(2, 3, 4)).astype("float32") * 2


def softmax(row, temperature=1.0):
    powers = [math.exp(one / temperature) for one in row]
    return [power / sum(powers) for power in powers]


def by_row(function):
    return np.array([function(t, s) for t, s in zip(TEACHER.tolist(), STUDENT.tolist())])


def values(loss, teacher=TEACHER, student=STUDENT):
    return call(loss, teacher, student)


def test_kl_divergence():
    def of(t, s):
        pairs = zip(softmax(t, 2.0), softmax(s, 2.0))
        return 4.0 * sum(p * math.log(p / q) for p, q in pairs)

    np.testing.assert_allclose(values(KLDivergence(2.0)), by_row(of), rtol=1e-5)
    bare = values(KLDivergence(2.0, compensate=False))
    np.testing.assert_allclose(bare, by_row(of) / 4, rtol=1e-5)


def test_soft_cross_entropy_is_the_divergence_plus_the_entropy():
    def entropy(t, s):
        return -sum(p * math.log(p) for p in softmax(t, 3.0))

    expected = values(KLDivergence(3.0, compensate=False)) + by_row(entropy)
    found = values(SoftCrossEntropy(3.0, compensate=False))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_binary_kl_divergence():
    def of(t, s):
        total = 0.0
        for one, other in zip(t, s):
            p, q = 1 / (1 + math.exp(-one / 2)), 1 / (1 + math.exp(-other / 2))
            total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        return 4.0 * total

    np.testing.assert_allclose(values(BinaryKLDivergence(2.0)), by_row(of), rtol=1e-5)


def test_binary_kl_divergence_of_two_classes_is_that_of_softmax():
    """A yes and a no with the logits z and 0 are the softmax of both."""
    teacher, student = TEACHER[:, :1], STUDENT[:, :1]
    both = [np.concatenate([side, np.zeros_like(side)], -1) for side in (teacher, student)]
    np.testing.assert_allclose(
        values(BinaryKLDivergence(1.5), teacher, student),
        values(KLDivergence(1.5), *both),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("loss", [BinaryKLDivergence(), LogitsMSE()])
def test_extreme_logits_are_finite(loss):
    rows = np.array([[-np.inf, 1e4, -1e4], [0, 0, 0]], "float32")
    assert np.isfinite(values(loss, rows, rows)).all()
    assert np.isfinite(values(loss, rows, np.where(np.isfinite(rows), -rows, rows))).all()


def test_logits_mse():
    def of(t, s):
        return sum(((one - other) / 2) ** 2 for one, other in zip(t, s)) / len(t)

    np.testing.assert_allclose(values(LogitsMSE(2.0)), by_row(of), rtol=1e-5)


def test_logits_mse_leaves_out_a_padded_vocabulary():
    teacher, student = (np.pad(x, ((0, 0), (0, 2)), constant_values=-np.inf)
                        for x in (TEACHER, STUDENT))  # fmt: skip
    np.testing.assert_allclose(values(LogitsMSE(), teacher, student), values(LogitsMSE()))
