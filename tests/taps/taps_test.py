"""Taps reach any layer of any model by path, in one forward pass, however it is run."""

import collections

import keras
import numpy as np
import pytest
from keras import layers, ops
from kinds import (
    TOKENS,
    Subclassed,
    X,
    arrays,
    compiled,
    dense,
    every_model,
    every_way,
    nested,
    stacked,
    subclassed,
    tensors,
)
from tiny_bert import SENTENCES, make_bert

from keras_distill import taps
from keras_distill.taps import recording


def expected(layer, model, x):
    """What the layer outputs, heard by the layer itself."""
    heard = []
    call = layer.call
    layer.call = lambda *args, **kwargs: heard.append(call(*args, **kwargs)) or heard[-1]
    model(x, training=False)
    layer.call = call
    return arrays(heard[-1])


def close(actual, wanted, tolerance=1e-5):
    np.testing.assert_allclose(arrays(actual), arrays(wanted), rtol=tolerance, atol=tolerance)


@every_model
def test_a_path_finds_its_layer(make, path, layer):
    model = make()
    assert taps.find_layer(model, path) is layer(model)


@every_model
@every_way
def test_a_tap_is_what_the_layer_outputs(make, path, layer, how):
    model = make()

    def look(x):
        return taps.run(model, x, ["output", path])

    features = compiled(look, how)(tensors(X))
    assert {*features} == {"output", path}
    close(features[path], expected(layer(model), model, X))
    close(features["output"], model(X))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_taps_keep_the_compute_dtype(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = nested()
    finally:
        keras.config.set_dtype_policy("float32")
    features = taps.run(model, X, ["encoder/inner/mid"])
    found = features["encoder/inner/mid"].dtype
    assert keras.backend.standardize_dtype(found) == policy.removeprefix("mixed_")


def test_a_shared_layer_counts_by_its_last_call():
    shared = dense(6, "shared")
    x = keras.Input((6,))
    model = keras.Model(x, shared(shared(x)))
    with pytest.warns(UserWarning, match="shared.*2 times"):
        features = taps.run(model, X, ["shared", "output"])
    close(features["shared"], features["output"])


def test_a_quantized_layer_is_tapped():
    model = nested()
    model.quantize("int8")
    features = taps.run(model, X, ["encoder/inner/deep", "output"])
    close(model.get_layer("head")(features["encoder/inner/deep"]), features["output"])


def attentive():
    x = keras.Input((3, 8))
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    return keras.Model(x, attention(x, x), name="attentive")


@every_way
def test_a_whole_attention_layer(how):
    model = attentive()
    paths = taps.attention("attention")
    assert paths == {name: f"attention/{name}" for name in ("query", "key", "value")}

    def look(x):
        return taps.run(model, x, list(paths.values()))

    features = compiled(look, how)(tensors(TOKENS))
    for name, path in paths.items():
        layer = getattr(model.get_layer("attention"), f"{name}_dense")
        assert features[path].shape == (2, 3, 2, 4)
        close(features[path], layer(TOKENS))


@pytest.fixture(scope="module")
def bert():
    return make_bert()


BERT_PATHS = {
    "backbone/transformer_layer_1": (2, 4, 8),
    **{
        path: (2, 4, 2, 4)
        for path in taps.attention("backbone/transformer_layer_0/self_attention_layer").values()
    },
}


@every_way
def test_a_keras_hub_task(bert, how):
    def look(x):
        return taps.run(bert, x, ["output", *BERT_PATHS])

    features = compiled(look, how)(tensors(SENTENCES))
    assert {path: tuple(features[path].shape) for path in BERT_PATHS} == BERT_PATHS
    close(features["output"], bert(SENTENCES))
    close(features["backbone/transformer_layer_1"], bert.backbone(SENTENCES)["sequence_output"])


@pytest.mark.parametrize(
    "path, level, names",
    [
        ("nope", "nested", ["encoder", "head"]),
        ("encoder/nope", "encoder", ["first", "inner"]),
        ("encoder/inner/nope/deep", "inner", ["mid", "deep"]),
        ("mid", "nested", ["encoder", "head"]),
        ("encoder/inner/deep/nope", "deep", ["none"]),
        ("", "nested", ["encoder", "head"]),
    ],
)
def test_a_wrong_path_names_the_level_and_what_is_there(path, level, names):
    with pytest.raises(ValueError) as error:
        taps.find_layer(nested(), path)
    for word in (level, *names, *(["nope"] if "nope" in path else [])):
        assert word in str(error.value)


class Idle(Subclassed):
    """Holds a layer that it does not call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.spare = dense(2, "spare")


def test_a_layer_that_did_not_run_is_named():
    with pytest.raises(ValueError, match="spare.*not call"):
        taps.run(Idle(), X, ["spare"])


def test_nothing_is_recorded_outside_a_run():
    model = nested()
    with pytest.raises(ZeroDivisionError):
        taps.run(lambda x: 1 / 0, X, ["output"])
    model(X)
    assert not recording._here.runs and not recording._watched


def test_ends_are_picked_by_key():
    x = {"a": keras.Input((6,), name="a"), "b": keras.Input((6,), name="b")}
    both = layers.Add()(list(x.values()))
    model = keras.Model(x, {"sum": both, "twice": layers.Rescaling(2.0)(both)})
    features = taps.run(model, {"a": X, "b": -X}, ["output:twice", "input:b"])
    close(features["output:twice"], 0 * X)
    close(features["input:b"], -X)
    for path, names in (("output:nope", ["sum", "twice"]), ("input:nope", ["a", "b"])):
        with pytest.raises(ValueError) as error:
            taps.run(model, {"a": X, "b": X}, [path])
        assert all(word in str(error.value) for word in ("nope", *names))


def test_one_output_has_no_key():
    with pytest.raises(ValueError, match="nope"):
        taps.run(nested(), X, ["output:nope"])


def test_shapes_lists_every_path():
    shapes = taps.shapes(nested())
    assert {
        "encoder": (None, 5),
        "encoder/first": (None, 8),
        "encoder/inner": (None, 5),
        "encoder/inner/mid": (None, 7),
        "encoder/inner/deep": (None, 5),
        "head": (None, 3),
    }.items() <= shapes.items()


@pytest.mark.parametrize("make", [nested, stacked, subclassed, attentive])
def test_every_listed_path_can_be_tapped(make):
    model = make()
    x = TOKENS if make is attentive else X
    shapes = {path: shape for path, shape in taps.shapes(model).items() if shape is not None}
    features = taps.run(model, x, list(shapes))
    assert len(shapes) > 3
    for path, shape in shapes.items():
        if isinstance(shape, tuple) and all(isinstance(size, int) for size in shape[1:]):
            assert tuple(features[path].shape)[1:] == shape[1:], path


def test_shapes_leaves_the_model_as_it_was():
    model = nested()
    before = model.get_weights()
    taps.shapes(model)
    for start, weight in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(start, weight)


class Attending(keras.Model):
    """Attention with a padding mask and, if asked, a causal one."""

    def __init__(self, causal, dropout=0.0):
        super().__init__()
        self.attend = keras.layers.MultiHeadAttention(2, 3, dropout=dropout, name="attend")
        self.causal = causal

    def call(self, inputs):
        x, mask = inputs
        return self.attend(
            x, x, attention_mask=mask[:, None], use_causal_mask=self.causal,
            return_attention_scores=self.attend._dropout > 0,
        )  # fmt: skip


@pytest.mark.parametrize("causal", [False, True])
@every_way
def test_attention_scores_are_those_before_the_softmax(causal, how):
    x = np.random.default_rng(0).normal(size=(2, 4, 5)).astype("float32")
    x, mask = tensors((x, np.array([[True] * 4, [True, True, True, False]])))
    model = Attending(causal, dropout=1e-9)
    model((x, mask))
    run = lambda x, mask: taps.run(model, (x, mask), ["attend:scores", "output"])  # noqa: E731
    features = compiled(run, how)(x, mask)
    scores = features["attend:scores"]
    assert scores.shape == (2, 2, 4, 4)
    close(ops.softmax(scores), features["output"][1], 1e-6)
    fast = Attending(causal)  # the fused kernel, which returns no scores
    fast((x, mask))
    fast.set_weights(model.get_weights())
    close(taps.run(fast, (x, mask), ["attend:scores"])["attend:scores"], scores, 1e-6)


def test_scores_belong_to_attention():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="head")])
    with pytest.raises(ValueError, match="Received: a `Dense`"):
        taps.run(model, ops.ones((1, 3)), ["head:scores"])


def test_parts_by_field_and_by_the_name_of_an_output():
    answer = collections.namedtuple("Answer", "hidden logits")
    ends = {"output": answer(X, 2 * X)}
    assert taps.pick("output:logits", ends) is ends["output"].logits
    assert taps.pick("output:b", {"output": [X, 2 * X]}, ["a", "b"])[0, 0] == 2 * X[0, 0]
    x = keras.Input((6,))
    model = keras.Model(x, [layers.Dense(2, name="a")(x), layers.Dense(3, name="b")(x)])
    found = taps.run(model, X, ["output:b", "output:1", "output:a"])
    assert found["output:b"].shape[-1] == 3 and found["output:a"].shape[-1] == 2
    np.testing.assert_array_equal(*(ops.convert_to_numpy(found[f"output:{key}"]) for key in "b1"))


def test_shapes_follow_a_model_that_changed():
    inner = keras.Sequential([layers.Dense(3)], name="inner")
    outer = keras.Sequential([keras.Input((4,)), inner, layers.Flatten()])
    assert taps.shapes(outer)["inner"] == (None, 3)
    inner.pop()
    inner.add(layers.Dense(5))
    assert taps.shapes(keras.Sequential([keras.Input((4,)), inner]))["inner"] == (None, 5)
    net = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a")])
    assert taps.shapes(net)["output"] == (None, 3)
    net.add(layers.Dense(2, name="b"))
    assert taps.shapes(net)["output"] == taps.shapes(net)["b"] == (None, 2)
    net.pop()
    net.add(layers.Dense(7, name="b"))
    assert taps.shapes(net)["output"] == taps.shapes(net)["b"] == (None, 7)
