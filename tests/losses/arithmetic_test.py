"""Arithmetic on features, against loops."""

import math

import numpy as np
import pytest
from backends import array, tensor, tensorflow_only, tf

from keras_distill.losses import arithmetic as feature_maps

RANDOM = np.random.default_rng(0)


def pooled(maps, size):
    """Every cell's mean, one after the other."""
    out = np.zeros((len(maps), *size, maps.shape[-1]))
    windows = [
        [(math.floor(i * n / cells), math.ceil((i + 1) * n / cells)) for i in range(cells)]
        for n, cells in zip(maps.shape[1:3], size)
    ]
    for i, (top, bottom) in enumerate(windows[0]):
        for j, (left, right) in enumerate(windows[1]):
            out[:, i, j] = maps[:, top:bottom, left:right].mean((1, 2))
    return out


@pytest.mark.parametrize(
    "height, width, size",
    [(8, 8, (4, 4)), (7, 5, (4, 2)), (3, 3, (1, 1)), (5, 6, (5, 4)), (2, 3, (4, 5))],
)
def test_adaptive_average_pool(height, width, size):
    maps = RANDOM.normal(size=(2, height, width, 3)).astype("float32")
    found = feature_maps.adaptive_average_pool(tensor(maps), size)
    np.testing.assert_allclose(array(found), pooled(maps, size), atol=1e-6)


@tensorflow_only
def test_maps_of_any_size_are_pooled_as_those_of_a_known_one():
    spec = tf.TensorSpec((None, None, None, 3))

    @tf.function(input_signature=[spec, spec])
    def pool(one, other):
        return feature_maps.matched(one, other)

    for size in (7, 9):
        large, small = (RANDOM.normal(size=(2, n, n, 3)).astype("float32") for n in (size, 4))
        found = [array(maps) for maps in pool(large, small)]
        np.testing.assert_allclose(found[0], pooled(large, (4, 4)), atol=1e-6)
        np.testing.assert_allclose(found[1], small, atol=1e-6)


def test_matched_pools_the_larger():
    large, small = (tensor(np.zeros(shape, "float32")) for shape in ((2, 6, 6, 3), (2, 4, 4, 5)))
    for pair in ((large, small), (small, large)):
        assert [tuple(maps.shape[1:3]) for maps in feature_maps.matched(*pair)] == [(4, 4), (4, 4)]


@pytest.mark.parametrize("size", [(6, 6), (5, 2), (3, 3), (1, 7)])
def test_nearest(size):
    maps = RANDOM.normal(size=(2, 3, 3, 2))
    maps = maps.astype("float32")
    found = array(feature_maps.nearest(tensor(maps), size))
    for i in range(size[0]):
        for j in range(size[1]):
            np.testing.assert_array_equal(
                found[:, i, j], maps[:, i * 3 // size[0], j * 3 // size[1]]
            )


@tensorflow_only
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("scale", [0.0, 1e-25, 1.0, 1e30])
def test_units_and_lengths_of_any_size(scale, jit_compile):
    vectors = tf.constant(RANDOM.normal(size=(3, 4)) * scale, "float32")

    @tf.function(jit_compile=jit_compile)
    def compute(vectors):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(vectors)
            units, lengths = feature_maps.unit(vectors), feature_maps.length(vectors)
        return units, tape.gradient(units, vectors), tape.gradient(lengths, vectors)

    units, *gradients = compute(vectors)
    expected = float(scale > 0)
    np.testing.assert_allclose(np.linalg.norm(units, axis=-1), expected, atol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients[: 1 + (scale < 1e30)])
    if scale == 0:
        assert not any(np.any(gradient) for gradient in gradients)


def test_length():
    vectors = RANDOM.normal(size=(3, 4)).astype("float32")
    expected = [math.sqrt(sum(x * x for x in row)) for row in vectors]
    np.testing.assert_allclose(array(feature_maps.length(tensor(vectors))), expected, rtol=1e-6)
