"""Exits on models of several kinds, and what is cut at them."""

import keras
import numpy as np
import pytest
from keras import layers
from kinds import arrays

from keras_distill import models

X = np.random.default_rng(0).normal(size=(12, 8, 8, 1)).astype("float32")
Y = np.arange(12) % 5
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
EXITS = {"exit_1": "block_1", "exit_2": "block_2"}


def cnn(activation=None, name="cnn"):
    x = inputs = keras.Input((8, 8, 1), name="image")
    for block, width in enumerate((4, 6, 8), start=1):
        x = layers.Conv2D(width, 3, strides=2, padding="same", name=f"block_{block}")(x)
        x = layers.BatchNormalization(name=f"norm_{block}")(x)
        x = layers.ReLU(name=f"relu_{block}")(x)
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D(name="pool")(x))
    return keras.Model(inputs, layers.Dense(5, activation=activation, name="logits")(x), name=name)


def same(found, wanted):
    np.testing.assert_array_equal(arrays(found), arrays(wanted))


def close(found, wanted):
    np.testing.assert_allclose(arrays(found), arrays(wanted), atol=1e-6)


class Encoder(layers.Layer):
    """A container that is no functional model, with dropout that asks for `training`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [layers.Dense(6, activation="tanh", name=f"step_{i}") for i in range(3)]
        self.dropout = layers.Dropout(0.5, name="drop")

    def call(self, x, training=None):
        for block in self.blocks:
            x = self.dropout(block(x), training=training)
        return x


def transformer_like():
    inputs = keras.Input((4, 6))
    encoded = Encoder(name="encoder")(inputs)
    return keras.Model(inputs, layers.Dense(5, name="logits")(encoded[:, 0]), name="sequence")


def test_the_deepest_output_is_the_models_own():
    model = cnn()
    net = models.add_exits(model, EXITS)
    outputs = net(X)
    assert list(outputs) == ["exit_1", "exit_2", "final"]
    same(outputs["final"], model(X))
    assert {tuple(output.shape) for output in outputs.values()} == {(12, 5)}


def test_training_the_exits_trains_the_model():
    model = cnn()
    before = model.get_weights()
    from keras_distill import Distiller

    distiller = Distiller(models.add_exits(model, EXITS))
    distiller.compile("adam", CE, metrics=["accuracy"])
    logs = distiller.fit(X, Y, verbose=0).history
    assert {"exit_1_accuracy", "exit_2_accuracy", "final_accuracy"} <= {*logs}
    changed = [not np.array_equal(old, new) for old, new in zip(before, model.get_weights())]
    assert sum(changed) >= len(before) - 1  # a count of dropout's seeds may stay


def test_dropout_and_batch_statistics_live_on_in_a_nested_model():
    inner = cnn()
    inputs = keras.Input((8, 8, 1))
    net = models.add_exits(keras.Model(inputs, inner(inputs)), {"exit_1": "cnn/block_2"})
    same(net(X)["final"], inner(X))
    moving = inner.get_layer("norm_1").moving_mean
    before = arrays(moving)
    first, second = (arrays(net(X, training=True)["final"]) for _ in range(2))
    assert not np.array_equal(first, second)
    assert not np.array_equal(before, arrays(moving))


def test_a_container_that_is_no_functional_model_is_opened():
    model = transformer_like()
    net = models.add_exits(model, {"exit_1": "encoder/step_1"})
    x = np.random.default_rng(0).normal(size=(3, 4, 6)).astype("float32")
    close(net(x)["final"], model(x))
    assert "step_2" not in {layer.name for layer in models.keep_exit(net, "exit_1").layers}
    first, second = (arrays(net(x, training=True)["final"]) for _ in range(2))
    assert not np.allclose(first, second)


def test_a_sequential_model():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4, name="a"), layers.Dense(3)])
    x = np.ones((2, 6), "float32")
    same(models.add_exits(model, {"e": "a"})(x)["final"], model(x))


def test_heads_end_as_the_model_does():
    soft = models.add_exits(cnn("softmax"), EXITS)(X)
    np.testing.assert_allclose(arrays(soft["exit_1"]).sum(-1), 1, atol=1e-5)
    own = models.add_exits(
        cnn(), {"e": "block_1"}, head=lambda f: layers.Dense(5)(layers.Flatten()(f))
    )
    assert own(X)["e"].shape == (12, 5)
    mixed = cnn()
    mixed.get_layer("logits").dtype_policy = "float32"
    found = models.add_exits(mixed, EXITS)(X)["exit_1"]
    assert keras.backend.standardize_dtype(found.dtype) == "float32"


def test_features_for_hints_are_equally_wide():
    net = models.add_exits(cnn(), EXITS)
    assert models.feature_path(net) == "pool"
    assert models.feature_path(net, "exit_1") == "exit_1_feature"
    widths = {net.get_layer(models.feature_path(net, e)).output.shape[-1] for e in net.output}
    assert widths == {8}


def test_a_kept_exit_stands_alone_and_loads_without_this_package(tmp_path):
    net = models.add_exits(cnn(), EXITS)
    shallow = models.keep_exit(net, "exit_1")
    same(shallow(X), net(X)["exit_1"])
    assert "block_2" not in {layer.name for layer in shallow.layers}
    shallow.save(tmp_path / "shallow.keras")
    with keras.saving.CustomObjectScope({}):
        loaded = keras.models.load_model(tmp_path / "shallow.keras")
    same(loaded(X), shallow(X))
    net.save(tmp_path / "net.keras")
    whole = keras.models.load_model(tmp_path / "net.keras")
    same(whole(X)["final"], net(X)["final"])


def test_a_keras_hub_classifier(tmp_path):
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=50, num_layers=3, num_heads=2, hidden_dim=8, intermediate_dim=16
    )
    model = keras_hub.models.BertTextClassifier(backbone, num_classes=4, preprocessor=None)
    net = models.add_exits(
        model, {f"exit_{i + 1}": f"backbone/transformer_layer_{i}" for i in range(2)}
    )
    random = np.random.default_rng(0)
    x = {
        "token_ids": random.integers(0, 50, (5, 7)),
        "segment_ids": np.zeros((5, 7), "int32"),
        "padding_mask": np.arange(7) < random.integers(2, 7, (5, 1)),
    }
    close(net(x)["final"], model(x))
    shallow = models.keep_exit(net, "exit_1")
    assert "transformer_layer_1" not in {layer.name for layer in shallow.layers}
    shallow.save(tmp_path / "bert.keras")
    close(keras.models.load_model(tmp_path / "bert.keras")(x), net(x)["exit_1"])
    from keras_distill import Distiller

    distiller = Distiller(net)
    distiller.compile("adam", CE, metrics=["accuracy"])
    assert np.isfinite(distiller.fit(x, np.arange(5) % 4, verbose=0).history["loss"]).all()


def test_exits_of_a_vision_transformer():
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(8, 8, 3), patch_size=4, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=16
    )
    model = keras_hub.models.ViTImageClassifier(backbone, num_classes=4, preprocessor=None)
    net = models.add_exits(model, {"exit_1": "backbone/vit_encoder/transformer_block_1"})
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    close(net(x)["final"], model(x))
    assert net(x)["exit_1"].shape == (2, 4)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize(
    "model, exits, message",
    [
        (cnn, {}, "at least one"),
        (cnn, {"final": "block_1"}, "final"),
        (cnn, {"e": "nowhere"}, "nowhere.*block_1"),
        (Subclassed, {"e": "dense"}, "functional or sequential"),
        (lambda: models.add_exits(cnn(), EXITS), {"e": "block_1"}, "one output"),
    ],
)
def test_refused(model, exits, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        models.add_exits(model(), exits)


def test_refused_features_and_exits():
    inputs = keras.Input((2, 2, 2, 1))
    feature = layers.Conv3D(2, 1, name="volume")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(feature)))
    with pytest.raises(ValueError, match="Give a `head`"):
        models.add_exits(model, {"e": "volume"})
    net = models.add_exits(cnn(), EXITS)
    for function in (models.keep_exit, models.feature_path):
        with pytest.raises(ValueError, match="No exit `x`.*exit_1"):
            function(net, "x")
    with pytest.raises(ValueError, match="dict of outputs"):
        models.keep_exit(cnn(), "exit_1")
    usual = layers.Layer.__call__
    with pytest.raises(ValueError):
        models.add_exits(cnn(), {"e": "block_1/x"})
    assert layers.Layer.__call__ is usual
