"""The gated ensemble of a model's branches."""

import keras
import numpy as np
import pytest
from keras import layers
from kinds import arrays

from keras_distill import Distiller, models, recipes

X = np.random.default_rng(0).normal(size=(32, 8, 8, 1)).astype("float32")
Y = np.arange(32) % 3
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def branches(classes=(3, 3)):
    inputs = keras.Input((8, 8, 1))
    trunk = layers.Conv2D(4, 3, activation="relu", name="trunk")(inputs)
    outputs = {}
    for index, width in enumerate(classes):
        x = layers.Conv2D(5, 3, activation="relu")(trunk)
        outputs[f"branch_{index}"] = layers.Dense(width)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs)


def test_the_ensemble_is_the_gates_mean():
    net = models.gated_ensemble(branches(), gate="trunk")
    outputs = arrays(net(X))
    trunk = arrays(net.get_layer("trunk")(X)).mean((1, 2))
    scores = trunk @ arrays(net.get_layer("ensemble_gate").kernel)
    scores = np.maximum(arrays(net.get_layer("ensemble_gate_norm")(scores)), 0)
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = sum(shares[:, k, None] * outputs[f"branch_{k}"] for k in range(2))
    np.testing.assert_allclose(outputs["ensemble"], expected, atol=1e-5)


def test_labels_train_the_gate_and_branches_are_cut(tmp_path):
    net = models.gated_ensemble(branches(), gate="trunk")
    distiller = Distiller(net, terms=recipes.one(net))
    distiller.compile(keras.optimizers.Adam(0.01), CE, metrics=["accuracy"])
    gate = arrays(net.get_layer("ensemble_gate").kernel)
    history = distiller.fit(X, Y, epochs=3, verbose=0).history
    assert not np.array_equal(gate, arrays(net.get_layer("ensemble_gate").kernel))
    assert {"branch_0_from_ensemble", "ensemble_accuracy"} <= {*history}
    branch = models.keep_exit(net, "branch_0")
    branch.save(tmp_path / "branch.keras")
    loaded = keras.models.load_model(tmp_path / "branch.keras")
    np.testing.assert_allclose(arrays(loaded(X)), arrays(net(X)["branch_0"]), atol=1e-6)
    assert loaded.count_params() < net.count_params()


def test_refused():
    with pytest.raises(ValueError, match="at least two outputs"):
        models.gated_ensemble(branches((3,)), gate="trunk")
    with pytest.raises(ValueError, match="the same shape"):
        models.gated_ensemble(branches((3, 4)), gate="trunk")
    with pytest.raises(ValueError, match="nowhere"):
        models.gated_ensemble(branches(), gate="nowhere")
    with pytest.raises(ValueError, match="dict of outputs"):
        models.gated_ensemble(keras.Sequential([layers.Dense(2)]), gate="x")
