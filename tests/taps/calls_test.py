"""Layers that one pass calls several times, and paths that name one of the calls."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops
from kinds import X, arrays, dense

from keras_distill import taps


def towers():
    """One encoder for the left and the right input."""
    encoder = keras.Sequential([keras.Input((6,)), dense(5, "hidden"), dense(4, "top")],
                               name="encoder")  # fmt: skip
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    joined = layers.Concatenate()([encoder(left), encoder(right)])
    return keras.Model([left, right], layers.Dense(3, name="head")(joined))


class Twice(keras.Model):
    """Calls a layer on tensors of two shapes, and a layer of two outputs."""

    def __init__(self):
        super().__init__()
        self.wide = dense(6, "wide")
        self.pair = Pair(name="pair")

    def call(self, x):
        first, _ = self.pair(self.wide(x))
        return self.pair(self.wide(ops.mean(first, axis=0, keepdims=True)))[1]


class Pair(layers.Layer):
    def call(self, x):
        return x + 1.0, x - 1.0


def test_a_path_names_a_call():
    model, sides = towers(), [X, -2 * X]
    encoder = model.get_layer("encoder")
    paths = ["encoder#0", "encoder#1", "encoder#-1", "encoder#-2", "encoder/hidden#0"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = arrays(taps.run(model, sides, paths))
    left, right = (arrays(encoder(side)) for side in sides)
    for path, wanted in zip(paths, [left, right, right, left]):
        np.testing.assert_allclose(found[path], wanted, atol=1e-6, err_msg=path)
    hidden = arrays(encoder.get_layer("hidden")(X))
    np.testing.assert_allclose(found["encoder/hidden#0"], hidden, atol=1e-6)


def test_without_a_number_the_last_call_counts_and_the_warning_names_the_others():
    model = Twice()
    model(X)
    message = r"called 2 times, with the shapes \[\(4, 6\), \(1, 6\)\].*`wide#0` to `wide#1`"
    with pytest.warns(UserWarning, match=message):
        found = taps.run(model, X, ["wide"])
    assert found["wide"].shape == (1, 6)
    with pytest.warns(UserWarning, match="`pair#0:1` to `pair#1:1`"):
        taps.run(model, X, ["pair:1"])


def test_a_call_and_a_part_of_its_output():
    model = Twice()
    model(X)
    found = arrays(taps.run(model, X, ["wide#0", "pair#0:0", "pair#0:1"]))
    np.testing.assert_allclose(found["pair#0:0"], found["wide#0"] + 1, atol=1e-6)
    np.testing.assert_allclose(found["pair#0:1"], found["wide#0"] - 1, atol=1e-6)


@pytest.mark.parametrize("number", [2, -3])
def test_a_call_that_did_not_happen(number):
    with pytest.raises(ValueError, match=f"`encoder#{number}`.*2 times.*`encoder#0`.*`encoder#1`"):
        taps.run(towers(), [X, X], [f"encoder#{number}"])


@pytest.mark.parametrize("path", ["encoder#", "encoder#one", "encoder#0/hidden", "encoder#0.5"])
def test_what_follows_the_sign_is_a_number(path):
    with pytest.raises(ValueError, match="precede the number of a call"):
        taps.run(towers(), [X, X], [path])


def test_calls_lists_the_shape_of_each():
    model = Twice()
    model(X)
    assert taps.calls(model) == {
        "wide": [(None, 6), (1, 6)],
        "pair": [((None, 6), (None, 6)), ((1, 6), (1, 6))],
    }
    assert taps.calls(towers()) == {
        "encoder": [(None, 4)] * 2,
        "encoder/hidden": [(None, 5)] * 2,
        "encoder/top": [(None, 4)] * 2,
    }
    assert taps.shapes(model)["wide"] == (1, 6)


def test_layers_may_be_listed_that_are_called_once_or_never():
    found = taps.calls(towers(), least=0)
    assert found["encoder"] == [(None, 4)] * 2
    assert [path for path, each in found.items() if len(each) == 1] == [
        path for path in found if not path.startswith("encoder")
    ]


class InGroups(keras.Model):
    """Computes with the number of its tokens, of which it takes a multiple of four."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = dense(3, "hidden")

    def call(self, x):
        if x.shape[1] % 4:
            raise ValueError("A multiple of four.")
        return self.hidden(x)


def test_a_model_that_takes_no_unknown_sizes_is_tried_with_others():
    inputs = keras.Input((None, 2))
    layer = InGroups()
    layer(np.ones((1, 4, 2), "float32"))
    model = keras.Model(inputs, Grouped(layer)(inputs))
    assert taps.shapes(model)["grouped"] == (None, None, 3)
    assert taps.shapes(model, unknown=8)["grouped"] == (8, 8, 3)


class Grouped(keras.layers.Layer):
    """Says its output's shape without a call, as a layer of KerasHub may."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:-1], 3), x.dtype)

    def call(self, x):
        return self.inner(x)


class Late(keras.Model):
    """Makes its layers when it is built."""

    def build(self, shape):
        self.hidden = dense(4, "hidden")
        self.hidden.build(shape)
        self.built = True

    def call(self, x):
        return self.hidden(x)


def test_a_layer_that_is_not_made_yet():
    model = Late(name="late")
    with pytest.raises(ValueError, match="`late` has no.*not built.*Call it on a batch first"):
        taps.find_layer(model, "hidden")
    model(X)
    assert taps.find_layer(model, "hidden") is model.hidden
