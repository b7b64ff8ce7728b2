"""Which rows count, by masks of every shape."""

import numpy as np
import pytest
from keras import ops

from keras_distill.losses import masks


@pytest.mark.parametrize("mask, expected", [
    (None, [1, 1, 1]), ([2.0, 0.0, 0.5], [1, 0, 1]), ([[1, 0], [0, 0], [0.5, 2]], [1, 0, 1]),
])  # fmt: skip
def test_an_example_counts_if_any_of_its_tokens_does(mask, expected):
    mask = mask if mask is None else np.array(mask)
    counts = masks.examples(mask, np.zeros((3, 2, 4), "float32"))
    assert ops.convert_to_numpy(counts).tolist() == expected


@pytest.mark.parametrize("mask, expected", [
    (None, [[1, 1], [1, 1]]), ([3.0, 0.0], [[1, 1], [0, 0]]), ([[0.0, 1.0], [1.0, 0.0]],
    [[0, 1], [1, 0]]),
])  # fmt: skip
def test_positions(mask, expected):
    mask = mask if mask is None else np.array(mask)
    like = np.ones((2, 2, 3), "float32")
    assert ops.convert_to_numpy(masks.positions(mask, like)).tolist() == expected


def test_the_mean_over_tokens_leaves_out_padding():
    values = np.arange(12, dtype="float32").reshape(2, 2, 3)
    mask = np.array([[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
    given = [ops.convert_to_tensor(x, "float32") for x in (values, mask)]
    mean = ops.convert_to_numpy(masks.mean_over_tokens(*given))
    assert mean.tolist() == [[0.5, 3.5], [0.0, 0.0]]
    every = ops.convert_to_numpy(masks.mean_over_tokens(given[0], None))
    np.testing.assert_allclose(every, values.mean(-1))
