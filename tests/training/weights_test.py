"""What weighs examples and tokens, and how tokens that are not the term's count."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_distill import CachedTeacher, Distiller, Term
from keras_distill.batch import Batch, Supervision
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


@pytest.mark.parametrize("as_dict", [True, False], ids=["dict", "list"])
def test_weights_of_each_output_ride_beside_cached_targets(as_dict):
    """In the `fit` of arrays, of which Keras asks for one weight a part of `y`."""
    x, y = np.random.default_rng(0).normal(size=(6, 3)), np.arange(6) % 2
    inputs = keras.Input((3,))
    outputs = {name: keras.layers.Dense(2, name=name)(inputs) for name in ("a", "b")}
    names = ("output:a", "a") if as_dict else ("output:0", "0")
    student = keras.Model(inputs, outputs if as_dict else [*outputs.values()])
    start = student.get_weights()

    def trained(x, labels, each, rows=slice(None)):
        student.set_weights(start)
        term = Term("mse", student=names[0], teacher="t")
        distiller = Distiller(student, teacher=CachedTeacher(), terms=[term], alpha=0.5)
        loss = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        )
        distiller.compile(keras.optimizers.SGD(0.1), loss)
        parts = [{"a": part[rows], "b": part[rows]} for part in (labels, each)]
        labels, each = parts if as_dict else [[*part.values()] for part in parts]
        targets = {"t": np.ones((6, 2), "float32")[rows]}
        distiller.fit(x[rows], Supervision(labels, targets), sample_weight=each, verbose=0)
        return student.get_weights()

    weighed = trained(x, y, np.float32([1, 1, 1, 1, 0, 0]))
    left_out = trained(x, y, np.ones(6, "float32"), slice(4))
    for one, other in zip(weighed, left_out):
        np.testing.assert_allclose(one, other, atol=1e-6)
