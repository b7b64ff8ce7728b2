"""How deep a model is, by its repeated blocks."""

import keras
from keras import layers

from keras_distill import models


def blocks(count, name="block"):
    return [layers.Dense(4, name=f"{name}_{index}") for index in range(count)]


def test_the_deepest_stack_counts_also_inside_of_a_model():
    flat = keras.Sequential([keras.Input((4,)), *blocks(3), layers.Dense(2)])
    assert models.depth_of(flat) == 3
    inner = keras.Sequential([keras.Input((4,)), *blocks(5, "unit")], name="inner")
    assert models.depth_of(keras.Sequential([keras.Input((4,)), *blocks(2), inner])) == 5
    assert models.depth_of(keras.Sequential([keras.Input((4,)), layers.Dense(2)])) == 0
