"""Losses on what a projector makes of feature maps, against loops."""

import math

import keras
import numpy as np
import pytest
from backends import array, tensor

from keras_distill import losses

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def value(loss, teacher, student):
    return array(loss.call(*keras.tree.map_structure(tensor, (teacher, student))))


def halved(maps):
    size, height, width, channels = maps.shape
    return maps.reshape(size, height // 2, 2, width // 2, 2, channels).mean((2, 4))


@pytest.mark.parametrize("by_example", [False, True])
@pytest.mark.parametrize("variant", ["paper", "code"])
def test_variational_information(variant, by_example):
    teacher, mean, scale = normal(2, 4, 4, 3), normal(2, 2, 2, 3), normal(3)
    expected = []
    for t, m in zip(halved(teacher), mean):
        total = 0
        for i, j, c in np.ndindex(2, 2, 3):
            variance = math.log(1 + math.exp(scale[c])) + 1e-3
            total += (math.log(variance) + (t[i, j, c] - m[i, j, c]) ** 2 / variance) / 2
        expected.append(total / (12 if variant == "code" else 1))
    student = {"mean": mean, "scale": np.stack([scale] * 2) if by_example else scale}
    loss = losses.VariationalInformation(variant, epsilon=1e-3)
    np.testing.assert_allclose(value(loss, teacher, student), expected, rtol=1e-5)


def test_variational_information_of_vectors_is_the_likelihood():
    """Less the constant, and least at the true variance."""
    teacher, mean = np.ones((1, 1), "float32"), np.zeros((1, 1), "float32")
    scales = np.linspace(-2, 3, 501, dtype="float32")
    found = [
        value(losses.VariationalInformation(), teacher, {"mean": mean, "scale": scale[None]})[0]
        for scale in scales[::25]
    ]
    variances = np.log1p(np.exp(scales[::25]))
    assert abs(variances[int(np.argmin(found))] - 1.0) < 0.2
    with pytest.raises(ValueError, match="`epsilon` must be positive.*epsilon=0"):
        losses.VariationalInformation(epsilon=0)


def direction(maps, power=None):
    if power is not None:
        maps = np.array([[np.mean(position**power) for position in row] for row in maps])
    return maps.ravel() / np.sqrt(sum(x * x for x in maps.ravel()))


@pytest.mark.parametrize("p", [1, 2, 3])
def test_factor_transfer(p):
    teacher, student = normal(2, 3, 3, 2), normal(2, 3, 3, 2)
    sums = [sum(abs(direction(s) - direction(t)) ** p) for t, s in zip(teacher, student)]
    found = value(losses.FactorTransfer(p), teacher, student)
    np.testing.assert_allclose(found, [total ** (1 / p) for total in sums], rtol=1e-4)
    found = value(losses.FactorTransfer(p, variant="code"), teacher, student)
    np.testing.assert_allclose(found, [total / 18 for total in sums], rtol=1e-4)


@pytest.mark.parametrize("power", [1, 2])
def test_factor_transfer_of_channel_means(power):
    teacher, student = normal(2, 2, 2, 3), normal(2, 4, 4, 5)
    expected = [
        sum(abs(direction(s, power) - direction(t, power)))
        for t, s in zip(teacher, halved(student))
    ]
    found = value(losses.FactorTransfer(channel_power=power), teacher, student)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_norm_of_factors_is_checked():
    with pytest.raises(ValueError, match="`p` must be at least 1.*p=0.5"):
        losses.FactorTransfer(p=0.5)


def test_hierarchical_context():
    """At 8 x 8 all levels count: 1, 1/2, 1/4, 1/8; at 2 x 2 the last alone, with 1/2."""
    teacher, student = ([normal(2, 8, 8, 3), normal(2, 2, 2, 4)] for _ in range(2))
    expected = np.zeros(2)
    for example in range(2):
        d = [(s - t)[example : example + 1] for t, s in zip(teacher, student)]
        four = halved(d[0])
        two = halved(four)
        squares = [np.mean(x**2) for x in (d[0], four, two, halved(two))]
        expected[example] = sum(x * w for x, w in zip(squares, (8, 4, 2, 1))) / 15
        expected[example] += (np.mean(d[1] ** 2) + np.mean(halved(d[1]) ** 2) / 2) / 1.5
    found = value(losses.HierarchicalContext(), teacher, student)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_without_levels_context_is_the_mean_squared_error():
    teacher, student = normal(2, 3, 3, 2), normal(2, 3, 3, 2)
    found = value(losses.HierarchicalContext(levels=()), teacher, student)
    np.testing.assert_allclose(found, ((student - teacher) ** 2).mean((1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("loss", [losses.HierarchicalContext(), losses.FlowOfSolutionProcedure()])
def test_both_sides_need_as_many_maps(loss):
    maps = [normal(2, 2, 2, 1)] * 3
    with pytest.raises(ValueError, match="3 of the teacher, 2 of the student"):
        value(loss, maps, maps[:2])


def test_semantic_calibration():
    attention = RANDOM.uniform(size=(2, 2, 3)).astype("float32")
    teacher = [normal(2, 2, 2, c) for c in (1, 2, 3)]
    student = [normal(2, size, size, c) for size in (4, 2) for c in (1, 2, 3)]
    expected = np.zeros(2)
    for example, i, j in np.ndindex(2, 2, 3):
        maps = halved(student[j]) if i == 0 else student[3 + j]
        error = np.mean((maps[example] - teacher[j][example]) ** 2)
        expected[example] += attention[example, i, j] * error / 2
    found = value(losses.SemanticCalibration(), teacher, [attention, *student])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(
        ValueError, match="needs 3 feature maps of the teacher and 6 of the student"
    ):
        value(losses.SemanticCalibration(), teacher, [attention, *student[:5]])
