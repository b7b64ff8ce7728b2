"""Divergences, against loops over the classes."""

import math

import numpy as np
import pytest
from backends import call

from keras_distill.losses import JensenShannon, KLDivergence, ReverseKL, SymmetricKL, TotalVariation

RANDOM = np.random.default_rng(0)
TEACHER, STUDENT = RANDOM.normal(size=(2, 3, 4)).astype("float32") * 2


def softmax(row, temperature):
    powers = [math.exp(one / temperature) for one in row]
    return [power / sum(powers) for power in powers]


def kl(p, q):
    return sum(one * math.log(one / other) for one, other in zip(p, q))


def by_row(function, temperature=2.0):
    rows = zip(TEACHER.tolist(), STUDENT.tolist())
    sides = ((softmax(t, temperature), softmax(s, temperature)) for t, s in rows)
    return np.array([temperature**2 * function(p, q) for p, q in sides])


def check(loss, function):
    np.testing.assert_allclose(call(loss, TEACHER, STUDENT), by_row(function), rtol=1e-5)


def test_reverse_kl():
    check(ReverseKL(2.0), lambda p, q: kl(q, p))


def test_reverse_kl_is_the_divergence_with_sides_exchanged():
    found = call(ReverseKL(2.0), TEACHER, STUDENT)
    np.testing.assert_allclose(found, call(KLDivergence(2.0), STUDENT, TEACHER), rtol=1e-6)


def test_reverse_kl_leaves_out_what_the_teacher_cannot_say():
    teacher = np.array([[0.0, 1.0, -np.inf]], "float32")
    value = call(ReverseKL(), teacher, np.zeros((1, 3), "float32"))
    p = softmax([0.0, 1.0], 1.0)
    np.testing.assert_allclose(value[0], sum(math.log(1 / 3 / one) / 3 for one in p), rtol=1e-5)


def test_symmetric_kl():
    check(SymmetricKL(0.3, 2.0), lambda p, q: 0.7 * kl(p, q) + 0.3 * kl(q, p))


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jensen_shannon(beta):
    def of(p, q):
        mixture = [beta * one + (1 - beta) * other for one, other in zip(p, q)]
        return beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)

    check(JensenShannon(beta, 2.0), of)


def test_the_ends_of_jensen_shannon_are_the_divergences():
    for beta, loss in ((0, KLDivergence(2.0)), (1, ReverseKL(2.0))):
        found = call(JensenShannon(beta, 2.0), TEACHER, STUDENT)
        np.testing.assert_allclose(found, call(loss, TEACHER, STUDENT), rtol=1e-6)


def test_jensen_shannon_is_at_most_log_two():
    apart = np.array([[100.0, 0.0]], "float32")
    np.testing.assert_allclose(call(JensenShannon(), apart, -apart), [math.log(2)], rtol=1e-6)


def test_total_variation():
    check(TotalVariation(2.0), lambda p, q: sum(abs(a - b) for a, b in zip(p, q)) / 2)


@pytest.mark.parametrize("arguments", [{"mix": 1.5}, {"mix": -0.1}])
def test_mix_is_a_share(arguments):
    with pytest.raises(ValueError, match=r"`mix` must be in \[0, 1\]"):
        JensenShannon(**arguments)


def test_mix_is_a_share_of_both_directions():
    with pytest.raises(ValueError, match=r"`mix` must be in \[0, 1\]. Received: mix=2"):
        SymmetricKL(2)
