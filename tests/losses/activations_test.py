"""Losses on features before their ReLU, against loops."""

import keras
import numpy as np
import pytest
from backends import array, tensor

from keras_distill import losses

RANDOM = np.random.default_rng(0)
SHAPE = (3, 2, 2, 4)


def normal(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def value(loss, teacher, student):
    return array(loss.call(tensor(teacher), tensor(student)))


@pytest.mark.parametrize("margin", [0.0, 0.5, 1.0])
def test_activation_boundary(margin):
    teacher, student = normal(*SHAPE), normal(*SHAPE)
    expected = []
    for t, s in zip(teacher, student):
        total = 0
        for a, b in zip(t.flat, s.flat):
            if a > 0 and b <= margin:
                total += (b - margin) ** 2
            elif a <= 0 and b > -margin:
                total += (b + margin) ** 2
        expected.append(total)
    found = value(losses.ActivationBoundary(margin), teacher, student)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_margin_of_activation_is_not_negative():
    with pytest.raises(ValueError, match="`margin` must be non-negative.*margin=-1"):
        losses.ActivationBoundary(-1)


@pytest.mark.parametrize("margin", [-0.3, [-0.1, -0.5, -1.0, 0.0]])
def test_overhaul_margin_loss(margin):
    teacher, student = normal(*SHAPE), normal(*SHAPE)
    limits = np.broadcast_to(margin, (4,))
    expected = np.zeros(3)
    for index in np.ndindex(SHAPE):
        t, s, m = teacher[index], student[index], limits[index[-1]]
        if t > 0 or (t > m and s > t):
            expected[index[0]] += (s - t) ** 2
        elif t <= m and s > m:
            expected[index[0]] += (s - m) ** 2
    found = value(losses.OverhaulMargin(margin), teacher, student)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("margin", [0.1, [-1.0, 0.1], [[-1.0]], np.nan])
def test_margins_are_not_positive(margin):
    with pytest.raises(ValueError, match="`margin` must be one non-positive number"):
        losses.OverhaulMargin(margin)


def test_the_margin_is_the_mean_of_negative_values():
    gamma, beta = [1.0, -2.0, 0.5, 1.0, 0.0], [0.0, 1.0, -0.5, 5.0, -1.0]
    sample = RANDOM.normal(size=400_000)
    expected = [(x := b + abs(g) * sample)[x < 0].mean() for g, b in zip(gamma[:3], beta)]
    made = losses.OverhaulMargin.from_normalization((np.array(gamma), np.array(beta)))
    found = made.margin
    np.testing.assert_allclose(found, [*expected, -3.0, -1.0], atol=1e-2)
    layer = keras.layers.BatchNormalization()
    layer.build((None, 5))
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    of_layer = losses.OverhaulMargin.from_normalization(layer)
    np.testing.assert_allclose(of_layer.margin, found, rtol=1e-6)
    assert made.get_config()["margin"] == pytest.approx(found)
