"""Losses on hidden states against plain loops."""

import numpy as np
import pytest
from backends import call, tensor, tensorflow_only, tf

from keras_distill import losses

RANDOM = np.random.default_rng(0)
TEACHER, STUDENT = RANDOM.normal(size=(2, 2, 4, 5)).astype("float32")
SECOND_TEACHER, SECOND_STUDENT = RANDOM.normal(size=(2, 2, 4, 3)).astype("float32")
MASK = np.array([[1, 1, 1, 1], [0, 1, 1, 0]])  # padded on both sides
MASKS = pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])


def seen(mask, example):
    return [t for t in range(4) if mask is None or mask[example, t]]


def close(values, expected):
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


def given(mask):
    return None if mask is None else tensor(mask, "float32")


def test_the_cosine_of_each_token():
    values = call(losses.Cosine(), tensor(TEACHER), tensor(STUDENT))
    for b in range(2):
        for t in range(4):
            one, other = TEACHER[b, t], STUDENT[b, t]
            cosine = sum(one * other) / (sum(one**2) * sum(other**2)) ** 0.5
            close(values[b, t], 1 - cosine)


@pytest.mark.parametrize("factor, distance", [(3.0, 0.0), (-2.0, 2.0), (0.0, 1.0)])
def test_the_cosine_knows_only_directions(factor, distance):
    values = call(losses.Cosine(), TEACHER, factor * TEACHER)
    close(values, np.full((2, 4), distance))


def squared_distance(one, other):
    return sum((a - b) ** 2 for a, b in zip(one / sum(one**2) ** 0.5, other / sum(other**2) ** 0.5))


@MASKS
def test_patient_kd_looks_at_the_first_token(mask):
    values = call(losses.PatientKD(), TEACHER, STUDENT, given(mask))
    first = [seen(mask, b)[0] for b in range(2)]
    close(values, [squared_distance(TEACHER[b, t], STUDENT[b, t]) for b, t in enumerate(first)])
    rows = call(losses.PatientKD(), TEACHER[:, 2], STUDENT[:, 2])
    close(rows, [squared_distance(TEACHER[b, 2], STUDENT[b, 2]) for b in range(2)])


def test_patient_kd_looks_at_all_tokens():
    """Each distance is twice the cosine's."""
    values = call(losses.PatientKD("all"), TEACHER, STUDENT)
    close(values, 2 * call(losses.Cosine(), TEACHER, STUDENT))


def test_patient_kd_knows_its_tokens():
    with pytest.raises(ValueError, match="`tokens` must be .*Received: tokens='last'"):
        losses.PatientKD("last")


@MASKS
def test_the_flow_between_two_layers(mask):
    expected = []
    for b in range(2):
        total = 0.0
        for i in range(5):
            for j in range(3):
                flow = [
                    np.mean([one[b, t, i] * two[b, t, j] for t in seen(mask, b)])
                    for one, two in ((TEACHER, SECOND_TEACHER), (STUDENT, SECOND_STUDENT))
                ]
                total += (flow[0] - flow[1]) ** 2
        expected.append(total / 15)
    sides = [TEACHER, SECOND_TEACHER], [STUDENT, SECOND_STUDENT]
    close(call(losses.SequenceFlow(), *sides, given(mask)), expected)


def test_the_flow_needs_equal_widths():
    sides = [TEACHER, SECOND_TEACHER], [STUDENT, STUDENT]
    with pytest.raises(ValueError, match=r"same width.*\[5, 3\] \(teacher\), \[5, 5\]"):
        call(losses.SequenceFlow(), *sides)


@MASKS
def test_the_products_of_tokens(mask):
    """The sides have widths of their own."""
    values = call(losses.TokenGram(), [TEACHER] * 2, [SECOND_STUDENT] * 2, given(mask))
    for b in range(2):
        for q in seen(mask, b):
            found = [
                (
                    TEACHER[b, q] @ TEACHER[b, k] / 5
                    - SECOND_STUDENT[b, q] @ SECOND_STUDENT[b, k] / 3
                )
                ** 2
                for k in seen(mask, b)
            ]
            close(values[b, q], sum(found) / len(found))


@pytest.mark.parametrize(
    "loss", [losses.Cosine(), losses.PatientKD(), losses.PatientKD("all")],
    ids=["cosine", "first", "all"],
)  # fmt: skip
@tensorflow_only
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_tokens_of_zeros_and_huge_ones_are_finite(loss, scale, jit_compile):
    @tf.function(jit_compile=jit_compile)
    def compute(student):
        with tf.GradientTape() as tape:
            tape.watch(student)
            values = loss.call(tensor(TEACHER), student)
        return values, tape.gradient(values, student)

    for result in compute(tensor(scale * STUDENT)):
        assert np.isfinite(result.numpy()).all()


@pytest.mark.parametrize("loss", [losses.SequenceFlow(), losses.TokenGram()])
@pytest.mark.parametrize("layers, found", [(1, "1 of"), (3, "3 of")])
def test_another_number_of_layers_than_two_is_named(loss, layers, found):
    with pytest.raises(ValueError, match=f"`{loss.name}` compares two layers.*Received: {found}"):
        call(loss, [TEACHER] * layers, [STUDENT] * layers)
    with pytest.raises(ValueError, match="Received: 1 of the teacher, 1 of the student"):
        call(loss, TEACHER, STUDENT)
