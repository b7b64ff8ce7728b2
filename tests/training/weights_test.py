"""What weighs examples and tokens, and how tokens that are not the term's count."""

import numpy as np
import pytest
from keras import ops

from keras_distill.batch import Batch
from keras_distill.training import weights

WEIGHTS = np.array([[0.5, 2.0, 0.0], [0.0, 0.0, 0.0]], "float32")
PADDING = np.array([[1, 1, 0], [1, 1, 1]], "bool")


def product(*masks, tokens=5, axis=1):
    shape = (2, tokens, 4) if axis == 1 else (2, 3, tokens, tokens)
    batch = Batch({"m": ops.convert_to_tensor(PADDING)}, None, ops.convert_to_tensor(WEIGHTS))
    found = weights.product(weights.checked(masks), "hidden", ops.ones(shape), batch, "x", axis)
    return ops.convert_to_numpy(found).tolist()


def test_an_example_has_its_largest_weight():
    assert product("example:sample_weight") == [2.0, 0.0]
    assert product("example:input:m", "example:sample_weight") == [2.0, 0.0]


@pytest.mark.parametrize("axis", [1, 2])
def test_what_stands_before_the_last_tokens_does_not_count(axis):
    assert product("last:input:m", axis=axis) == [[0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]
    assert product("last:sample_weight", "last:input:m", axis=axis) == [
        [0, 0, 0.5, 2, 0], [0] * 5,
    ]  # fmt: skip
    assert product("last:input:m", tokens=3, axis=axis) == PADDING.tolist()


def test_a_weight_of_examples_has_no_tokens():
    batch = Batch(None, None, ops.convert_to_tensor(WEIGHTS[:, 0]))
    for name in ("example:sample_weight", "last:sample_weight"):
        found = weights.product((name,), "hidden", ops.ones((2, 5, 4)), batch, "x")
        np.testing.assert_array_equal(found, WEIGHTS[:, 0])


@pytest.mark.parametrize("mask", ["first:sample_weight", "last:", "example:last:input:m", "last"])
def test_other_names_are_refused(mask):
    with pytest.raises(ValueError, match="`mask` must be .*\"example:\" or \"last:\""):
        weights.checked(mask)
