"""Copies of models keep what their layers learned by `adapt`, which is not in their weights."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill import EMATeacher, models

RANDOM = np.random.default_rng(0)
NUMBERS = (3 * RANDOM.normal(size=(20, 4)) + 5).astype("float32")
TEXTS = np.asarray(["a b c", "c c d", "e a", "b"])


def ended(inputs, x):
    return keras.Model(inputs, layers.Dense(3)(layers.Dense(8, "relu")(x)))


def of_numbers():
    norm = layers.Normalization()
    norm.adapt(NUMBERS)
    inputs = keras.Input((4,))
    return ended(inputs, norm(inputs)), NUMBERS


def of_texts(mode="int"):
    import tensorflow as tf

    length = {"output_sequence_length": 3} if mode == "int" else {}
    words = layers.TextVectorization(output_mode=mode, **length)
    words.adapt(TEXTS)
    inputs = keras.Input((), dtype="string")
    x = words(inputs)
    if mode == "int":
        x = layers.GlobalAveragePooling1D()(layers.Embedding(9, 8)(x))
    return ended(inputs, x), tf.constant(TEXTS)


def of_full_width(model):
    return models.shrink(model, width=1.0)


def following(model):
    teacher = EMATeacher(0.9)
    teacher.begin(model)
    return teacher.model


@pytest.mark.parametrize("copied", [of_full_width, following])
@pytest.mark.parametrize("made", [of_numbers, of_texts, lambda: of_texts("tf_idf")])
def test_a_copy_answers_as_the_model_does(made, copied):
    model, x = made()
    np.testing.assert_array_equal(copied(model)(x), model(x))


@pytest.mark.parametrize("made", [of_numbers, of_texts])
def test_a_quantized_copy_is_near_the_model(made):
    model, x = made()
    copy = models.quantization_aware(model, activations=None)
    np.testing.assert_allclose(copy(x), model(x), atol=0.05 * np.abs(model(x)).max())


def test_fewer_units_and_nothing_adapted():
    narrow = models.shrink(of_numbers()[0], width=0.5)
    norm, = (layer for layer in narrow.layers if isinstance(layer, layers.Normalization))
    np.testing.assert_allclose(norm(NUMBERS), (NUMBERS - NUMBERS.mean(0)) / NUMBERS.std(0), 1e-3)
    words = layers.TextVectorization(output_sequence_length=3)  # to be adapted later
    model = keras.Sequential([keras.Input((), dtype="string"), words, layers.Embedding(9, 8),
                              layers.Flatten(), layers.Dense(8), layers.Dense(2)])  # fmt: skip
    assert models.shrink(model, width=0.5).count_params() < model.count_params()
