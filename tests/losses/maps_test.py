"""Losses on feature maps, against loops."""

import keras
import numpy as np
import pytest
from backends import array, tensor, value_and_gradients

from keras_distill import losses

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def value(loss, teacher, student):
    return array(loss.call(*keras.tree.map_structure(tensor, (teacher, student))))


def halved(maps):
    size, height, width, channels = maps.shape
    return maps.reshape(size, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def attention(maps, p, signed):
    """One example's attention, of length one, a position at a time."""
    found = []
    for row in maps:
        for position in row:
            found.append(sum((c if signed else abs(c)) ** p for c in position))
    return np.array(found) / np.sqrt(sum(a * a for a in found))


@pytest.mark.parametrize(
    "p, variant",
    [(1, "paper"), (2, "paper"), (3, "paper"), (1.5, "paper"), (2, "code"), (3, "code")],
)
def test_attention_transfer(p, variant):
    signed = variant == "code"
    teacher, student = normal(2, 4, 4, 3), normal(2, 2, 2, 5)
    pairs = zip(halved(teacher), student)
    differences = [attention(s, p, signed) - attention(t, p, signed) for t, s in pairs]
    found = value(losses.AttentionTransfer(p, variant), teacher, student)
    distance = {"paper": lambda d: np.sqrt(sum(d * d)), "code": lambda d: np.mean(d * d)}[variant]
    np.testing.assert_allclose(found, [distance(d) for d in differences], rtol=1e-4)


@pytest.mark.parametrize("arguments", [{"p": 0.5}, {"p": 1.5, "variant": "code"}])
def test_the_power_of_attention_is_checked(arguments):
    with pytest.raises(ValueError, match=f"`p` must be.*p={arguments['p']}"):
        losses.AttentionTransfer(**arguments)


def kernel(one, other, degree):
    total = 0
    for a in one.reshape(-1, one.shape[-1]).T:
        for b in other.reshape(-1, other.shape[-1]).T:
            total += (a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)) ** degree
    return total / one.shape[-1] / other.shape[-1]


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_neuron_selectivity(degree):
    teacher, student = normal(2, 2, 2, 3), normal(2, 4, 4, 2)
    expected = [
        kernel(t, t, degree) + kernel(s, s, degree) - 2 * kernel(s, t, degree)
        for t, s in zip(teacher, halved(student))
    ]
    found = value(losses.NeuronSelectivity(degree), teacher, student)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_neuron_selectivity_knows_no_order_of_channels():
    teacher = normal(2, 3, 3, 4)
    found = value(losses.NeuronSelectivity(), teacher, 3 * teacher[..., [2, 0, 3, 1]])
    np.testing.assert_allclose(found, 0, atol=1e-6)


@pytest.mark.parametrize("degree", [0, 1.5])
def test_the_degree_is_whole(degree):
    with pytest.raises(ValueError, match=f"`degree`.*degree={degree}"):
        losses.NeuronSelectivity(degree)


def flow(first, second):
    positions = list(np.ndindex(first.shape[:2]))
    return sum(np.outer(first[p], second[p]) for p in positions) / len(positions)


def test_flow_of_solution_procedure():
    shapes = [(2, 4, 4, 2), (2, 2, 2, 3), (2, 2, 2, 4)]
    teacher, student = ([normal(*shape) for shape in shapes] for _ in range(2))
    expected, average = np.zeros(2), np.zeros(2)
    for example in range(2):
        sides = [[halved(maps[0]), *maps[1:]] for maps in (teacher, student)]
        for i in range(2):
            t, s = (flow(side[i][example], side[i + 1][example]) for side in sides)
            expected[example] += ((s - t) ** 2).sum()
            average[example] += ((s - t) ** 2).mean()
    found = value(losses.FlowOfSolutionProcedure(), teacher, student)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    found = value(losses.FlowOfSolutionProcedure(variant="code"), teacher, student)
    np.testing.assert_allclose(found, average, rtol=1e-5)


def test_a_flow_needs_two_maps():
    maps = [normal(2, 2, 2, 3)]
    with pytest.raises(ValueError, match="at least 2.*1 of the teacher, 1 of the student"):
        value(losses.FlowOfSolutionProcedure(), maps, maps)
    with pytest.raises(ValueError, match=r"channels.*\(2, 2, 2, 3\).*\(2, 2, 2, 1\)"):
        value(losses.FlowOfSolutionProcedure(), maps * 2, [maps[0][..., :1], *maps])


@pytest.mark.parametrize("normalize", [True, False])
def test_class_attention_transfer(normalize):
    teacher, student = normal(2, 4, 4, 3), normal(2, 2, 2, 3)
    expected = []
    for t, s in zip(halved(teacher), student):
        total = 0
        for k in range(3):
            a, b = t[..., k].ravel(), s[..., k].ravel()
            if normalize:
                a, b = a / np.sqrt(a @ a), b / np.sqrt(b @ b)
            total += sum((b - a) ** 2)
        expected.append(total / 12)
    found = value(losses.ClassAttentionTransfer(2, normalize), teacher, student)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_arguments_of_class_attention_transfer():
    with pytest.raises(ValueError, match="`resolution` must be positive.*resolution=0"):
        losses.ClassAttentionTransfer(0)
    with pytest.raises(ValueError, match="channels"):
        value(losses.ClassAttentionTransfer(), normal(2, 4, 4, 3), normal(2, 4, 4, 1))


@pytest.mark.parametrize("loss", [losses.AttentionTransfer(4), losses.NeuronSelectivity()])
def test_huge_maps_are_finite(loss):
    teacher, student = (tensor(normal(2, 3, 3, 4) * 1e4) for _ in range(2))
    value, gradients = value_and_gradients(
        lambda tensors: keras.ops.sum(loss.call(teacher, tensors["student"])), {"student": student}
    )
    assert np.isfinite(array(value)) and np.isfinite(array(gradients["student"])).all()
