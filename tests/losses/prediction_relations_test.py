"""Losses on how predictions relate, against NumPy on whole tables."""

import numpy as np
import pytest
from backends import call

from keras_distill.losses import DIST, MultiLevelLogits

RANDOM = np.random.default_rng(0)
TEACHER, STUDENT = RANDOM.normal(size=(2, 5, 4)).astype("float32") * 2


def softmax(table, temperature):
    powers = np.exp(table.astype("float64") / temperature)
    return powers / powers.sum(-1, keepdims=True)


def of_dist(teacher, student, beta, gamma, temperature):
    teacher, student = softmax(teacher, temperature), softmax(student, temperature)
    examples = [np.corrcoef(t, s)[0, 1] for t, s in zip(teacher, student)]
    classes = [np.corrcoef(t, s)[0, 1] for t, s in zip(teacher.T, student.T)]
    return temperature**2 * (beta * (1 - np.mean(examples)) + gamma * (1 - np.mean(classes)))


def test_dist():
    found = np.mean(call(DIST(2.0, 0.5, temperature=3.0), TEACHER, STUDENT))
    np.testing.assert_allclose(found, of_dist(TEACHER, STUDENT, 2.0, 0.5, 3.0), rtol=1e-5)


def test_pixels_are_examples():
    maps = [side[None, :, None] for side in (TEACHER, STUDENT)]
    values = call(DIST(), *maps)
    assert values.shape == (1, 5, 1)
    np.testing.assert_allclose(np.ravel(values), call(DIST(), TEACHER, STUDENT), rtol=1e-5)


def test_correlation_forgives_scale_and_shift_of_predictions():
    """Predictions halfway to the uniform ones correlate fully."""
    p = softmax(TEACHER, 1.0)
    student = np.log(0.5 * p + 0.5 / 4)
    np.testing.assert_allclose(call(DIST(), TEACHER, student.astype("float32")), 0, atol=1e-5)


def of_levels(teacher, student, temperatures, instance, batch, classes):
    total = 0.0
    for temperature in temperatures:
        p, q = softmax(teacher, temperature), softmax(student, temperature)
        total += instance * temperature**2 * (p * np.log(p / q)).sum() / len(p)
        total += batch * ((p @ p.T - q @ q.T) ** 2).sum() / len(p)
        total += classes * ((p.T @ p - q.T @ q) ** 2).sum() / p.shape[1]
    return total


@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 2, 3)])
def test_multi_level_logits(weights):
    found = np.mean(call(MultiLevelLogits((1.0, 3.0), *weights), TEACHER, STUDENT))
    np.testing.assert_allclose(found, of_levels(TEACHER, STUDENT, (1, 3), *weights), rtol=1e-5)


@pytest.mark.parametrize("loss", [DIST(), MultiLevelLogits((1.0, 2.0))])
def test_masked_rows_leave_the_batch(loss):
    mask = np.array([1.0, 0.5, 0.0, 2.0, 0.0], "float32")
    kept = mask > 0
    found = np.array(call(loss, TEACHER, STUDENT, mask))[kept]
    np.testing.assert_allclose(found, call(loss, TEACHER[kept], STUDENT[kept]), rtol=1e-4)


def test_levels_are_of_a_table():
    with pytest.raises(ValueError, match=r"\(batch, classes\)"):
        call(MultiLevelLogits(), TEACHER[None], STUDENT[None])


@pytest.mark.parametrize("make, message", [
    (lambda: DIST(beta=-1), "`beta` must be non-negative"),
    (lambda: MultiLevelLogits([1, 0]), "`temperatures` must be positive"),
    (lambda: MultiLevelLogits(batch=-2), "`batch` must be non-negative"),
])  # fmt: skip
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
