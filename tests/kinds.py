"""Small models of every kind, and functions run in every way that a backend has."""

import keras
import numpy as np
import pytest
from keras import layers

BACKEND = keras.backend.backend()
only_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's own")
WAYS = ("eager", "graph", "xla")
every_way = pytest.mark.parametrize("how", WAYS)


def compiled(function, how):
    """`function` as it is, as a graph of TensorFlow, or compiled by XLA."""
    if how == "eager":
        return function
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=how == "xla")
    if BACKEND == "jax" and how == "xla":
        import jax

        return jax.jit(function)
    pytest.skip(f"{BACKEND} has no {how}")


def tensors(structure):
    """The arrays of a structure as the backend's tensors."""
    return keras.tree.map_structure(keras.ops.convert_to_tensor, structure)


def arrays(structure):
    """The tensors of a structure as NumPy's arrays."""
    return keras.tree.map_structure(keras.ops.convert_to_numpy, structure)


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
