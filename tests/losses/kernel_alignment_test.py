"""Centered kernel alignment against plain loops."""

import itertools

import numpy as np
import pytest
from backends import array, tensor, value_and_gradients

from keras_distill.losses import CenteredKernelAlignment
from keras_distill.losses.kernel_alignment import cka

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(6, 4)), RANDOM.normal(size=(6, 3))


def tensors(*arrays):
    return [tensor(x, "float32") for x in arrays]


def linear(x):
    return np.array([[a @ b for b in x] for a in x])


def rbf(x):
    square = np.array([[np.sum((a - b) ** 2) for b in x] for a in x])
    median = np.median([np.sum((a - b) ** 2) for a, b in itertools.combinations(x, 2)])
    return np.exp(-square / (2 * median))


def alignment(kernel, x, y):
    center = np.eye(len(x)) - 1 / len(x)
    one, other = (center @ kernel(side) @ center for side in (x, y))
    return np.sum(one * other) / np.sqrt(np.sum(one * one) * np.sum(other * other))


@pytest.mark.parametrize("kernel", [linear, rbf])
def test_is_the_formula(kernel):
    name, expected = kernel.__name__, alignment(kernel, X, Y)
    np.testing.assert_allclose(cka(*tensors(X, Y), kernel=name), expected, rtol=1e-5)
    values = CenteredKernelAlignment(name).call(*tensors(X, Y))
    np.testing.assert_allclose(values, np.full(6, 1 - expected), rtol=1e-5)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_masked_examples_do_not_count(kernel):
    mask = tensor([1.0, 0.0, 2.0, 1.0, 0.0, 0.5])
    kept = cka(*tensors(X[[0, 2, 3, 5]], Y[[0, 2, 3, 5]]), kernel=kernel)
    np.testing.assert_allclose(cka(*tensors(X, Y), kernel=kernel, mask=mask), kept, rtol=1e-5)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_moves_turns_and_scaling_do_not_count(kernel):
    turn = np.linalg.qr(RANDOM.normal(size=(4, 4)))[0]
    aligned = cka(*tensors(X, 3 * X @ turn + 2), kernel=kernel)
    np.testing.assert_allclose(aligned, 1, rtol=1e-5)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_equal_examples_align_with_nothing(kernel):
    one, other = tensors(np.ones((6, 4)), Y)
    aligned, gradients = value_and_gradients(
        lambda tensors: cka(tensors["one"], other, kernel=kernel), {"one": one}
    )
    assert aligned == 0 and np.isfinite(array(gradients["one"])).all()


def test_a_kernel_is_known():
    with pytest.raises(ValueError, match="`kernel` must be one of .*Received: kernel='cosine'"):
        CenteredKernelAlignment("cosine")
    with pytest.raises(ValueError, match="`kernel` must be one of .*Received: kernel='cosine'"):
        cka(*tensors(X, Y), kernel="cosine")
