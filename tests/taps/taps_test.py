"""Taps reach any layer of any model by path, in one forward pass, however it is run."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_distill import Distiller, Term, taps

X = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
TOKENS = np.random.default_rng(1).normal(size=(2, 3, 8)).astype("float32")


class Block(layers.Layer):
    """A layer that holds layers."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(width, "relu", name="inner")
        self.second = layers.Dense(width)

    def call(self, x):
        return self.second(self.first(x))


class Subclassed(keras.Model):
    """A model that is no graph of layers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = layers.Dense(8, name="stem")
        self.blocks = [Block(8, name=f"block_{i}") for i in range(2)]
        self.head = layers.Dense(3, name="head")

    def call(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def dense(width, name):
    return layers.Dense(width, "tanh", name=name)


def nested():
    inner_input = keras.Input((8,))
    inner = keras.Model(inner_input, dense(5, "deep")(dense(7, "mid")(inner_input)), name="inner")
    x = keras.Input((6,))
    encoder = keras.Sequential([dense(8, "first"), inner], name="encoder")
    return keras.Model(x, layers.Dense(3, name="head")(encoder(x)), name="nested")


def stacked():
    encoder = keras.Sequential([keras.Input((6,)), dense(8, "a"), dense(5, "b")], name="encoder")
    return keras.Sequential([encoder, layers.Dense(3, name="head")], name="stacked")


def subclassed():
    model = Subclassed(name="subclassed")
    model(X)
    return model


MODELS = {
    "nested": (nested, "encoder/inner/mid", lambda m: m.get_layer("encoder").layers[1].layers[1]),
    "stacked": (stacked, "encoder/a", lambda m: m.layers[0].layers[0]),
    "subclassed": (subclassed, "block_1/inner", lambda m: m.blocks[1].first),
    "attribute": (subclassed, "block_1/second", lambda m: m.blocks[1].second),
    "whole": (subclassed, "block_0", lambda m: m.blocks[0]),
}
every_model = pytest.mark.parametrize("make, path, layer", MODELS.values(), ids=MODELS)


def expected(layer, model, x):
    """What the layer outputs, heard by the layer itself."""
    heard = []
    call = layer.call
    layer.call = lambda *args, **kwargs: heard.append(call(*args, **kwargs)) or heard[-1]
    model(x, training=False)
    layer.call = call
    return heard[-1].numpy()


def close(actual, wanted, tolerance=1e-5):
    np.testing.assert_allclose(np.array(actual), wanted, rtol=tolerance, atol=tolerance)


@every_model
def test_a_path_finds_its_layer(make, path, layer):
    model = make()
    assert taps.find_layer(model, path) is layer(model)


@every_model
@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
def test_a_tap_is_what_the_layer_outputs(make, path, layer, how):
    model = make()

    def look(x):
        return taps.run(model, x, ["output", path])

    if how != "eager":
        look = tf.function(look, jit_compile=how == "xla")
    features = look(tf.constant(X))
    assert {*features} == {"output", path}
    close(features[path], expected(layer(model), model, X))
    close(features["output"], model(X))


@pytest.mark.parametrize(
    "case, compile",
    [
        ("nested", {"run_eagerly": True}),
        ("stacked", {}),
        ("subclassed", {"jit_compile": True}),
        ("attribute", {"steps_per_execution": 2}),
    ],
)
def test_hints_train_what_lies_below_them(case, compile):
    make, path, layer = MODELS[case]
    student, teacher = make(), make()
    term = Term(keras.losses.MeanSquaredError(), student=path, teacher=path, name="hint")
    distiller = Distiller(student, teacher=teacher, terms=[term], alpha=1.0)
    distiller.compile(keras.optimizers.SGD(0.1), loss=None, **compile)
    below = layer(student).trainable_variables
    before = [variable.numpy() for variable in below]
    logs = distiller.fit(X, batch_size=2, epochs=3, verbose=0).history["hint"]
    assert logs[-1] < logs[0]
    for start, variable in zip(before, below, strict=True):
        assert not np.array_equal(start, variable.numpy())


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_taps_keep_the_compute_dtype(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = nested()
    finally:
        keras.config.set_dtype_policy("float32")
    features = taps.run(model, X, ["encoder/inner/mid"])
    assert features["encoder/inner/mid"].dtype == policy.removeprefix("mixed_")


def test_a_student_of_half_precision_learns_from_a_teacher_of_full():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        student = nested()
    finally:
        keras.config.set_dtype_policy("float32")
    path = "encoder/inner/deep"
    term = Term(keras.losses.MeanSquaredError(), student=path, teacher=path, name="hint")
    distiller = Distiller(student, teacher=nested(), terms=[term], alpha=1.0)
    distiller.compile(keras.optimizers.SGD(0.1), loss=None)
    logs = distiller.fit(X, epochs=3, verbose=0).history["hint"]
    assert np.isfinite(logs).all() and logs[-1] < logs[0]


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


@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
def test_a_whole_attention_layer(how):
    model = attentive()
    paths = taps.attention("attention")
    assert paths == {name: f"attention/{name}" for name in ("query", "key", "value")}

    def look(x):
        return taps.run(model, x, list(paths.values()))

    look = look if how == "eager" else tf.function(look, jit_compile=how == "xla")
    features = look(tf.constant(TOKENS))
    for name, path in paths.items():
        layer = getattr(model.get_layer("attention"), f"{name}_dense")
        assert features[path].shape == (2, 3, 2, 4)
        close(features[path], layer(TOKENS))


def make_bert():
    hub = pytest.importorskip("keras_hub")
    backbone = hub.models.BertBackbone(
        vocabulary_size=20,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=8,
        max_sequence_length=6,
    )
    return hub.models.BertTextClassifier(backbone, num_classes=3, preprocessor=None)


@pytest.fixture(scope="module")
def bert():
    return make_bert()


SENTENCES = {
    "token_ids": np.array([[1, 2, 3, 0], [4, 5, 0, 0]]),
    "padding_mask": np.array([[1, 1, 1, 0], [1, 1, 0, 0]]),
    "segment_ids": np.zeros((2, 4), int),
}
BERT_PATHS = {
    "backbone/transformer_layer_1": (2, 4, 8),
    **{
        path: (2, 4, 2, 4)
        for path in taps.attention("backbone/transformer_layer_0/self_attention_layer").values()
    },
}


@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
def test_a_keras_hub_task(bert, how):
    def look(x):
        return taps.run(bert, x, ["output", *BERT_PATHS])

    look = look if how == "eager" else tf.function(look, jit_compile=how == "xla")
    features = look({name: tf.constant(value) for name, value in SENTENCES.items()})
    assert {path: tuple(features[path].shape) for path in BERT_PATHS} == BERT_PATHS
    close(features["output"], bert(SENTENCES))
    close(features["backbone/transformer_layer_1"], bert.backbone(SENTENCES)["sequence_output"])


def test_a_keras_hub_task_teaches_its_layers(bert):
    student = make_bert()
    path = "backbone/transformer_layer_0"
    hint = Term(
        keras.losses.MeanSquaredError(), student=path, teacher=path, mask="input:padding_mask",
        name="hint",
    )  # fmt: skip
    distiller = Distiller(student, teacher=bert, terms=[hint], alpha=1.0)
    distiller.compile(keras.optimizers.SGD(0.1), loss=None)
    logs = distiller.fit(SENTENCES, epochs=2, verbose=0).history["hint"]
    assert np.isfinite(logs).all() and 0 < logs[-1] < logs[0]


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


class Inside(keras.Model):
    """Calls its layer in another graph."""

    def __init__(self, how, **kwargs):
        super().__init__(**kwargs)
        self.how = how
        self.inner = dense(6, "inner")
        self.inner.build((None, 6))

    def call(self, x):
        if self.how == "cond":
            return tf.cond(tf.reduce_sum(x) > 0, lambda: self.inner(x), lambda: x)
        body = lambda i, x: (i + 1, self.inner(x))  # noqa: E731
        return tf.while_loop(lambda i, x: i < 2, body, (tf.constant(0), x))[1]


@pytest.mark.parametrize("how", ["cond", "while_loop"])
def test_a_tap_inside_another_graph_says_so(how):
    model = Inside(how)
    look = tf.function(lambda x: taps.run(model, x, ["inner"]), autograph=False)
    with pytest.raises(ValueError, match=r"inner[\s\S]*while_loop[\s\S]*cond"):
        look(tf.constant(X))


def test_nothing_is_recorded_outside_a_run():
    model = nested()
    with pytest.raises(ZeroDivisionError):
        taps.run(lambda x: 1 / 0, X, ["output"])
    model(X)
    assert not taps._recorders.__dict__.get("stack")


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
    before = [weight.numpy() for weight in model.weights]
    taps.shapes(model)
    for start, weight in zip(before, model.weights, strict=True):
        assert np.array_equal(start, weight.numpy())


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
@pytest.mark.parametrize("graph", [False, True])
def test_attention_scores_are_those_before_the_softmax(causal, graph):
    x = np.random.default_rng(0).normal(size=(2, 4, 5)).astype("float32")
    mask = np.array([[True] * 4, [True, True, True, False]])
    model = Attending(causal, dropout=1e-9)
    model((x, mask))
    run = lambda x, mask: taps.run(model, (x, mask), ["attend:scores", "output"])  # noqa: E731
    features = (tf.function(run) if graph else run)(tf.constant(x), tf.constant(mask))
    scores = features["attend:scores"]
    assert scores.shape == (2, 2, 4, 4)
    np.testing.assert_allclose(tf.nn.softmax(scores), features["output"][1], atol=1e-6)
    fast = Attending(causal)  # the fused kernel, which returns no scores
    fast((x, mask))
    fast.set_weights(model.get_weights())
    again = taps.run(fast, (tf.constant(x), tf.constant(mask)), ["attend:scores"])
    np.testing.assert_allclose(again["attend:scores"], scores, atol=1e-6)


def test_scores_belong_to_attention():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")])
    with pytest.raises(ValueError, match="`Dense` shows no attention scores"):
        taps.run(model, tf.ones((1, 3)), ["head:scores"])
