"""Losses on features of equal width, against loops."""

import numpy as np
import pytest
from backends import array, tensor

from keras_distill import losses

RANDOM = np.random.default_rng(0)
SHAPES = [(4, 3), (2, 3, 4), (2, 3, 3, 2)]


def normal(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def rows(array):
    return array.reshape(-1, array.shape[-1])


def value(loss, teacher, student, **extras):
    return array(loss.call(tensor(teacher), tensor(student), **extras))


@pytest.mark.parametrize("shape", SHAPES)
def test_hint(shape):
    teacher, student = normal(*shape), normal(*shape)
    expected = [sum((s - t) ** 2) / len(t) for t, s in zip(rows(teacher), rows(student))]
    found = value(losses.Hint(), teacher, student)
    np.testing.assert_allclose(found, np.reshape(expected, shape[:-1]), rtol=1e-5)


def test_a_hint_pools_the_larger_map():
    teacher, student = normal(2, 4, 4, 3), normal(2, 2, 2, 3)
    small = teacher.reshape(2, 2, 2, 2, 2, 3).mean((2, 4))
    expected = ((small - student) ** 2).mean(-1)
    np.testing.assert_allclose(value(losses.Hint(pool=True), teacher, student), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [losses.Hint(pool=True), losses.PearsonCorrelation()])
def test_channels_must_agree(loss):
    with pytest.raises(ValueError, match=r"channels.*\(2, 4, 4, 3\).*\(2, 4, 4, 1\)"):
        value(loss, normal(2, 4, 4, 3), normal(2, 4, 4, 1))


@pytest.mark.parametrize("shape", SHAPES)
def test_cosine(shape):
    teacher, student = normal(*shape), normal(*shape)
    expected = [
        1 - sum(s * t) / np.sqrt(sum(s * s) * sum(t * t))
        for t, s in zip(rows(teacher), rows(student))
    ]
    found = value(losses.Cosine(), teacher, student)
    np.testing.assert_allclose(found, np.reshape(expected, shape[:-1]), rtol=1e-5, atol=1e-6)


def test_cosine_knows_directions_only():
    rows = normal(3, 4)
    found = value(
        losses.Cosine(), np.stack([rows, rows, 0 * rows]), np.stack([5 * rows, -rows, rows])
    )
    np.testing.assert_allclose(found, [[0] * 3, [2] * 3, [1] * 3], atol=1e-6)


def test_masked_generation():
    teacher, student = normal(2, 3, 3, 2), normal(2, 3, 3, 2)
    expected = [sum((s - t) ** 2 for t, s in zip(a.flat, b.flat)) for a, b in zip(teacher, student)]
    np.testing.assert_allclose(value(losses.MaskedGeneration(), teacher, student), expected, 1e-5)


@pytest.mark.parametrize("shape", [(6, 3), *SHAPES[1:]])
def test_pearson_is_one_minus_the_correlation(shape):
    teacher, student = normal(*shape), normal(*shape) * 3 + 2
    channels = zip(rows(teacher).T, rows(student).T)
    expected = np.mean([1 - np.corrcoef(t, s)[0, 1] for t, s in channels])
    found = value(losses.PearsonCorrelation(), teacher, student).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    number = np.prod(shape[:-1])
    unbiased = value(losses.PearsonCorrelation(variant="code"), teacher, student).mean()
    np.testing.assert_allclose(unbiased, expected * (number - 1) / number, rtol=1e-4)


def test_pearson_without_masked_rows():
    teacher, student = normal(6, 3), normal(6, 3)
    mask = tensor([2.0, 1.0, 0.0, 0.5, 0.0, 1.0])
    kept = array(mask) > 0
    loss = losses.PearsonCorrelation(variant="code")
    expected = value(loss, teacher[kept], student[kept])
    np.testing.assert_allclose(value(loss, teacher, student, mask=mask)[kept], expected, rtol=1e-4)


@pytest.mark.parametrize("resize, size", [("student", 4), ("teacher", 2)])
def test_pearson_resizes_one_side(resize, size):
    found = value(losses.PearsonCorrelation(resize=resize), normal(2, 4, 4, 3), normal(2, 2, 2, 3))
    assert found.shape == (2, size, size)
    with pytest.raises(ValueError, match="'student', 'teacher'.*both"):
        losses.PearsonCorrelation(resize="both")
