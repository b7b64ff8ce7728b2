"""Small models of each kind, a teacher and a student."""

import keras
import numpy as np
import pytest
from keras import layers


def convolutional(width, blocks):
    """`blocks` convolutions at each of two sizes."""
    inputs = x = keras.Input((8, 8, 1))
    for stage in (1, 2):
        for block in range(blocks):
            x = layers.Conv2D(width * stage, 3, padding="same", activation="relu",
                              name=f"stage_{stage}_{block}")(x)  # fmt: skip
        if stage == 1:
            x = layers.MaxPooling2D(name="pool")(x)
    x = layers.GlobalAveragePooling2D(name="embedding")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x), name=f"cnn_{width}")


class Block(layers.Layer):
    """Attention and a dense layer, each with its sum."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.attention = layers.MultiHeadAttention(2, width // 2)
        self.dense = layers.Dense(width, activation="relu")

    def call(self, x):
        x = x + self.attention(x, x)
        return x + self.dense(x)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def vision_transformer(width, blocks):
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(width, 2, strides=2, name="patches")(inputs)
    x = layers.Reshape((16, width))(x)
    for block in range(blocks):
        x = Block(width, name=f"block_{block}")(x)
    x = layers.GlobalAveragePooling1D(name="embedding")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x), name=f"vit_{width}")


def bert(width, blocks):
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=30,
        num_layers=blocks,
        num_heads=2,
        hidden_dim=width,
        intermediate_dim=12,
        max_sequence_length=6,
    )
    return keras_hub.models.BertTextClassifier(backbone, num_classes=3, preprocessor=None)


def images():
    random = np.random.default_rng(0)
    return random.normal(size=(8, 8, 8, 1)).astype("float32"), np.arange(8) % 3


def texts():
    random = np.random.default_rng(0)
    real = np.arange(6) < random.integers(2, 7, (8, 1))
    x = {
        "token_ids": random.integers(1, 30, (8, 6)) * real,
        "padding_mask": real.astype("int32"),
        "segment_ids": np.zeros((8, 6), "int32"),
    }
    return x, np.arange(8) % 3


KINDS = {
    "cnn": (convolutional, 4, 6, images),
    "vit": (vision_transformer, 4, 4, images),
    "bert": (bert, 4, 4, texts),
}


@pytest.fixture(scope="module")
def pair():
    """`pair(kind)`: a student of two blocks, a teacher of four, and data."""
    made = {}

    def make(kind):
        if kind not in made:
            build, width, teacher_width, data = KINDS[kind]
            keras.utils.set_random_seed(0)
            made[kind] = build(width, 2), build(teacher_width, 4), data()
        return made[kind]

    return make
