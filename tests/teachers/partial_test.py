"""Cut teachers call what is left in the model's own order, each layer as often as the model."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers
from kinds import X, arrays, dense, nested, subclassed, tensors

from keras_distill import taps
from keras_distill.teachers.partial import Part, part_of

called = []


class Noting(layers.Layer):
    """The identity, which notes in `called` that it runs."""

    def call(self, x):
        called.append(self.name)
        return x


def towers(twice=False):
    """One encoder for the left and the right input; the deeper side is called first or last."""
    encoder = keras.Sequential([keras.Input((6,)), dense(5, "hidden"), dense(4, "top")],
                               name="encoder")  # fmt: skip
    sides = [keras.Input((6,), name=name) for name in ("left", "right")]
    ends = [encoder(side) for side in sides]
    if twice:
        ends[0] = encoder(dense(6, "again")(ends[0]))
    return keras.Model(sides, dense(3, "head")(layers.Concatenate(name="join")(ends)))


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("path", ["encoder", "encoder/hidden", "encoder#0", "encoder/hidden#0"])
def test_a_shared_layer_is_heard_alike_in_the_part_and_in_the_whole(path, twice):
    model, sides = towers(twice=twice), tensors([X, -2 * X])
    part = part_of(model, [path])
    assert isinstance(part, Part)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = arrays(taps.run(model, sides, [path]))[path]
        found = arrays(taps.run(part, sides, [path], owner=model))[path]
    np.testing.assert_array_equal(found, wanted)


def test_a_model_inside_may_be_called_by_the_name_of_its_input():
    x = keras.Input((6,))
    inner = keras.Model(x, dense(6, "after")(dense(6, "hidden")(x)), name="inner")
    outer = keras.Input((6,))
    model = keras.Model(outer, dense(3, "head")(inner(inputs=outer)))
    path = "inner/hidden"
    part = part_of(model, [path])
    assert isinstance(part, Part)
    found, wanted = (arrays(taps.run(each, tensors(X), [path], owner=model))[path]
                     for each in (part, model))  # fmt: skip
    np.testing.assert_array_equal(found, wanted)


def test_the_last_call_of_a_siamese_encoder_is_the_right_one():
    model = towers()
    part = part_of(model, ["encoder"])
    with pytest.warns(UserWarning, match="2 times"):
        found = taps.run(part, tensors([X, -2 * X]), ["encoder"], owner=model)["encoder"]
    right = model.get_layer("encoder")(-2 * X)
    np.testing.assert_allclose(arrays(found), arrays(right), atol=1e-6)


def test_a_layer_that_is_called_inside_and_outside_of_a_model_is_called_as_often():
    shared, x = dense(6, "shared"), keras.Input((6,))
    inner = keras.Model(x, dense(6, "after")(shared(x)), name="inner")
    outer = keras.Input((6,))
    model = keras.Model(outer, dense(3, "head")(inner(shared(outer))))
    part = part_of(model, ["shared"])
    with pytest.warns(UserWarning, match="2 times"):
        found = taps.run(part, tensors(X), ["shared"], owner=model)["shared"]
    np.testing.assert_allclose(arrays(found), arrays(shared(shared(X))), atol=1e-6)


def test_what_is_not_needed_is_not_called():
    x = keras.Input((6,))
    late = Noting(name="late")(dense(6, "block")(Noting(name="early")(x)))
    inner = keras.Model(x, late, name="inner")
    outer = keras.Input((6,))
    end = Noting(name="last")(inner(outer))
    model = keras.Model(outer, dense(3, "head")(end))
    for paths, calls in (["inner/block"], 1), (["inner"], 2), (["inner/block", "last"], 3):
        part = part_of(model, paths)
        called.clear()
        found = arrays(taps.run(part, tensors(X), paths, owner=model))
        assert called == ["early", "late", "last"][:calls]
        whole = arrays(taps.run(model, tensors(X), paths))
        for path in paths:
            np.testing.assert_array_equal(found[path], whole[path])


@pytest.mark.parametrize("paths", [[], ["output"], ["head"], ["encoder", "output"]])
def test_where_nothing_is_left_out_the_model_runs(paths):
    model = nested()
    assert part_of(model, paths) is model


def test_other_models_run_whole():
    class Own(keras.Model):
        def call(self, x):
            return super().call(x * 2.0)

    x = keras.Input((6,))
    own = Own(x, dense(3, "head")(dense(4, "block")(x)))
    assert part_of(own, ["block"]) is own
    model = subclassed()
    assert part_of(model, ["stem"]) is model


def test_a_part_leaves_the_model_as_it_was_and_dropout_off():
    x = keras.Input((6,))
    model = keras.Model(x, dense(3, "head")(layers.Dropout(0.9, name="drop")(dense(4, "block")(x))))
    config, count = model.get_config(), len(model.get_layer("block")._inbound_nodes)
    part = part_of(model, ["drop"])
    found = arrays(taps.run(part, tensors(X), ["drop", "block"], owner=model))
    np.testing.assert_array_equal(found["drop"], found["block"])
    assert model.get_config() == config
    assert len(model.get_layer("block")._inbound_nodes) == count
    assert {id(w) for w in part.weights} == {id(w) for w in model.weights}


def test_masks_and_named_inputs_reach_the_part():
    ids = {name: keras.Input((3,), name=name, dtype="int32") for name in ("a", "b")}
    embedding = layers.Embedding(5, 4, mask_zero=True, name="embedding")
    hidden = layers.GRU(4, name="gru")(embedding(ids["a"]))
    other = layers.Flatten()(embedding(ids["b"]))
    joined = layers.Concatenate()([hidden, other])
    model = keras.Model(ids, dense(3, "head")(dense(3, "block")(joined)))
    x = tensors({"a": np.array([[1, 2, 0]]), "b": np.array([[3, 0, 0]])})
    part = part_of(model, ["gru"])
    found = arrays(taps.run(part, x, ["gru"], owner=model))["gru"]
    np.testing.assert_allclose(found, arrays(taps.run(model, x, ["gru"]))["gru"], atol=1e-6)
