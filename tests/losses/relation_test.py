"""Relational distances and angles against plain loops."""

import itertools

import keras
import numpy as np
import pytest
from backends import array, tensor, tensorflow_only, tf

from keras_distill.losses import RelationalAngle, RelationalDistance, geometry

RANDOM = np.random.default_rng(0)
TEACHER, STUDENT = RANDOM.normal(size=(5, 4)), RANDOM.normal(size=(5, 3))


def call(loss, teacher, student, mask=None):
    tensors = (tensor(x, "float32") for x in (teacher, student))
    mask = None if mask is None else tensor(mask, "float32")
    return array(loss.call(*tensors, mask=mask))


def smooth_l1(difference):
    size = abs(difference)
    return 0.5 * size**2 if size < 1 else size - 0.5


def relative(x, i, j):
    every = [np.linalg.norm(a - b) for a, b in itertools.permutations(x, 2)]
    return np.linalg.norm(x[i] - x[j]) / np.mean(every)


def cosine(x, i, j, k):
    one, other = x[j] - x[i], x[k] - x[i]
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


def deviations(measure, number, teacher, student):
    """Of all tuples of different examples."""
    return [
        smooth_l1(measure(teacher, *chosen) - measure(student, *chosen))
        for chosen in itertools.permutations(range(len(teacher)), number)
    ]


@pytest.mark.parametrize(
    "kind, measure, number", [(RelationalDistance, relative, 2), (RelationalAngle, cosine, 3)]
)
@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("exact", [True, False])
def test_is_the_mean_over_tuples(kind, measure, number, scale, exact, monkeypatch):
    monkeypatch.setattr(geometry, "products_are_exact", lambda: exact)
    student = STUDENT * [scale, 1.0, 1.0]  # far apart too, where the loss is linear
    expected = deviations(measure, number, TEACHER, student)
    np.testing.assert_allclose(call(kind(), TEACHER, student).mean(), np.mean(expected), 1e-5)
    every = np.sum(expected) / len(TEACHER) ** number
    of_code = call(kind(variant="code"), TEACHER, student).mean()
    np.testing.assert_allclose(of_code, every, rtol=1e-5)


@pytest.mark.parametrize("kind", [RelationalDistance, RelationalAngle])
def test_moves_turns_and_scaling_do_not_count(kind):
    turn = np.linalg.qr(RANDOM.normal(size=(4, 4)))[0]
    values = call(kind(), TEACHER, 3 * TEACHER @ turn + 7)
    np.testing.assert_allclose(values, 0, atol=1e-6)


@pytest.mark.parametrize("kind", [RelationalDistance, RelationalAngle])
@pytest.mark.parametrize("size", [1, 2])
def test_too_few_examples_have_no_relation(kind, size):
    np.testing.assert_allclose(call(kind(), TEACHER[:size], STUDENT[:size]), 0, atol=1e-6)


def gradient(loss, teacher, student, mask, function=lambda f: f):
    def compute(student):
        with tf.GradientTape() as tape:
            tape.watch(student)
            values = loss.call(tensor(teacher, "float32"), student, mask=mask)
            total = tf.reduce_sum(values)
        return values, tape.gradient(total, student)

    return function(compute)(tensor(student, "float32"))


def unknown_size(compute):
    return tf.function(compute, input_signature=[tf.TensorSpec((None, 3))])


def compiled(compute):
    return tf.function(compute, jit_compile=True)


@tensorflow_only
@pytest.mark.parametrize("function", [lambda f: f, unknown_size, compiled])
@pytest.mark.parametrize("size, chunk", [(7, 2), (7, 3), (6, 3), (3, 64)])
def test_in_chunks_is_the_whole(function, size, chunk):
    teacher, student = RANDOM.normal(size=(size, 4)), RANDOM.normal(size=(size, 3))
    mask = tensor([0.0] + [1.0] * (size - 1))
    whole = gradient(RelationalAngle(), teacher, student, mask)
    parts = gradient(RelationalAngle(chunk=chunk), teacher, student, mask, function)
    for one, other in zip(parts, whole):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("exact", [True, False])
def test_distances_past_a_chunk_are_those_of_the_formula(exact, monkeypatch):
    monkeypatch.setattr(geometry, "products_are_exact", lambda: exact)
    teacher, student = RANDOM.normal(size=(70, 4)), RANDOM.normal(size=(70, 3))
    expected = np.mean(deviations(lambda x, i, j: np.linalg.norm(x[i] - x[j]) / mean(x), 2,
                                  teacher, student))  # fmt: skip
    np.testing.assert_allclose(call(RelationalDistance(), teacher, student).mean(), expected, 1e-5)


def mean(x):
    distances = np.linalg.norm(x[:, None] - x[None], axis=-1)
    return distances.sum() / (len(x) * (len(x) - 1))


@pytest.mark.parametrize("exact", [True, False])
def test_near_examples_keep_their_distance(exact, monkeypatch):
    """Far from the origin a difference of squares would lose it."""
    monkeypatch.setattr(geometry, "products_are_exact", lambda: exact)
    near = np.array([[100.0, 0.0], [100.001, 0.0], [100.0, 0.003]], "float32").astype("float64")
    expected = np.mean(deviations(relative, 2, TEACHER[:3], near))
    np.testing.assert_allclose(call(RelationalDistance(), TEACHER[:3], near).mean(), expected, 1e-5)


def test_a_chunk_is_positive():
    with pytest.raises(ValueError, match="`chunk` must be positive. Received: chunk=0"):
        RelationalAngle(chunk=0)


def test_products_are_exact_on_processors(monkeypatch):
    assert geometry.products_are_exact()
    if keras.backend.backend() != "torch":
        monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0", "gpu:0"])
        assert not geometry.products_are_exact()
