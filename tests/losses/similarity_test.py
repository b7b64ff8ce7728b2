"""Similarities between examples against plain loops."""

import math

import numpy as np
import pytest
from backends import array, tensor

from keras_distill.losses import CorrelationCongruence, ProbabilisticTransfer, SimilarityPreserving

RANDOM = np.random.default_rng(0)
TEACHER, STUDENT = RANDOM.normal(size=(4, 5)), RANDOM.normal(size=(4, 3))
SIZE = range(4)


def call(loss, teacher=TEACHER, student=STUDENT, mask=None):
    tensors = (tensor(x, "float32") for x in (teacher, student))
    mask = None if mask is None else tensor(mask, "float32")
    return array(loss.call(*tensors, mask=mask))


def unit(x):
    return x / np.linalg.norm(x)


def cosine(x, i, j):
    return unit(x[i]) @ unit(x[j])


def test_similarity_preserving_compares_rows_of_unit_length():
    expected = 0.0
    for i in SIZE:
        teacher, student = (unit([x[i] @ x[j] for j in SIZE]) for x in (TEACHER, STUDENT))
        expected += sum((teacher - student) ** 2)
    np.testing.assert_allclose(call(SimilarityPreserving()).mean(), expected / 16, rtol=1e-5)


@pytest.mark.parametrize("gamma, order", [(0.4, 2), (1.5, 5)])
def test_correlation_congruence_is_the_series(gamma, order):
    def series(x, i, j):
        powers = ((2 * gamma * cosine(x, i, j)) ** p for p in range(order + 1))
        return math.exp(-2 * gamma) * sum(x / math.factorial(p) for p, x in enumerate(powers))

    apart = [(series(TEACHER, i, j) - series(STUDENT, i, j)) ** 2 for i in SIZE for j in SIZE]
    values = call(CorrelationCongruence(gamma, order))
    np.testing.assert_allclose(values.mean(), np.mean(apart), rtol=1e-4)


def test_correlation_congruence_approaches_a_gaussian():
    def gaussian(x, i, j):
        return math.exp(-0.7 * np.sum((unit(x[i]) - unit(x[j])) ** 2))

    apart = [(gaussian(TEACHER, i, j) - gaussian(STUDENT, i, j)) ** 2 for i in SIZE for j in SIZE]
    values = call(CorrelationCongruence(gamma=0.7, order=20))
    np.testing.assert_allclose(values.mean(), np.mean(apart), rtol=1e-4)


def test_neighbors_are_the_next_that_count():
    apart = np.abs(TEACHER[:, :3] - STUDENT)
    pairs = [apart[i] @ apart[i + 1] for i in range(3)]
    loss = CorrelationCongruence(variant="code")
    np.testing.assert_allclose(call(loss, TEACHER[:, :3]).mean(), np.mean(pairs), rtol=1e-5)
    masked = call(loss, TEACHER[:, :3], mask=[1, 0, 2, 0.5])
    expected = (apart[0] @ apart[2] + apart[2] @ apart[3]) / 2
    np.testing.assert_allclose(masked[[0, 2, 3]].mean(), expected, rtol=1e-5)
    assert loss.same_shape


def probabilities(x, i, others):
    kernel = np.array([(1 + cosine(x, i, j)) / 2 for j in others])
    return kernel / kernel.sum()


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_probabilistic_transfer_compares_neighbors(variant):
    expected = []
    for i in SIZE:
        others = [j for j in SIZE if variant == "code" or j != i]
        teacher, student = (probabilities(x, i, others) for x in (TEACHER, STUDENT))
        expected.append(sum(teacher * np.log(teacher / student)) / (4 if variant == "code" else 1))
    values = call(ProbabilisticTransfer(variant))
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "loss", [SimilarityPreserving(), CorrelationCongruence(), ProbabilisticTransfer()]
)
def test_turns_do_not_count(loss):
    turn = np.linalg.qr(RANDOM.normal(size=(5, 5)))[0]
    np.testing.assert_allclose(call(loss, TEACHER, TEACHER @ turn), 0, atol=1e-6)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="`gamma` must be positive. Received: gamma=0"):
        CorrelationCongruence(gamma=0)
    with pytest.raises(ValueError, match="`order` must be at least 1. Received: order=0"):
        CorrelationCongruence(order=0)
    with pytest.raises(ValueError, match="`epsilon` must be positive. Received: epsilon=0"):
        ProbabilisticTransfer(epsilon=0)
