"""Skewed divergences, against loops over the classes."""

import math

import numpy as np
import pytest
from backends import call

from keras_distill.losses import KLDivergence, ReverseKL, SkewedKL, SkewedReverseKL

RANDOM = np.random.default_rng(0)
TEACHER, STUDENT = RANDOM.normal(size=(2, 3, 4)).astype("float32") * 2


def softmax(row):
    powers = [math.exp(one) for one in row]
    return [power / sum(powers) for power in powers]


def kl_to_mixture(rows, others, alpha):
    found = []
    for row, other in zip(rows.tolist(), others.tolist()):
        pairs = list(zip(softmax(row), softmax(other)))
        found.append(sum(p * math.log(p / (alpha * p + (1 - alpha) * q)) for p, q in pairs))
    return found


def test_skewed_kl():
    expected = kl_to_mixture(TEACHER, STUDENT, 0.2)
    np.testing.assert_allclose(call(SkewedKL(0.2), TEACHER, STUDENT), expected, rtol=1e-5)


def test_skewed_reverse_kl():
    expected = kl_to_mixture(STUDENT, TEACHER, 0.2)
    np.testing.assert_allclose(call(SkewedReverseKL(0.2), TEACHER, STUDENT), expected, rtol=1e-5)


@pytest.mark.parametrize("skewed, plain", [(SkewedKL, KLDivergence), (SkewedReverseKL, ReverseKL)])
def test_without_skew_it_is_the_plain_divergence(skewed, plain):
    found = call(skewed(0, temperature=2.0), TEACHER, STUDENT)
    np.testing.assert_allclose(found, call(plain(2.0), TEACHER, STUDENT), rtol=1e-6)


@pytest.mark.parametrize("loss", [SkewedKL, SkewedReverseKL])
def test_it_is_at_most_minus_log_mix(loss):
    apart = np.array([[1000.0, 0.0]], "float32")
    np.testing.assert_allclose(call(loss(0.1), apart, -apart), [-math.log(0.1)], rtol=1e-6)


@pytest.mark.parametrize("mix", [-0.1, 1, float("nan")])
@pytest.mark.parametrize("loss", [SkewedKL, SkewedReverseKL])
def test_mix_is_a_share(loss, mix):
    with pytest.raises(ValueError, match=r"`mix` must be in \[0, 1\)"):
        loss(mix)
