"""Small convolutional networks for the examples' comparisons."""

import keras
from keras import layers


def network(shape, filters=(16, 32, 64), name="network"):
    """A block of two convolutions for each number of filters, and one classifier of ten classes.

    Each block halves the image and ends in the layer `"block_1"`, `"block_2"` and so on; `"pool"`
    is what the last layer sees. The output is logits: without a softmax it can be softened.
    """
    x = inputs = keras.Input(shape)
    for block, width in enumerate(filters, start=1):
        x = _convolution(x, width, strides=2)
        x = layers.ReLU(name=f"block_{block}")(_convolution(layers.ReLU()(x), width))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name=name)


def _convolution(x, width, strides=1):
    x = layers.Conv2D(width, 3, strides=strides, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9)(x)  # few steps: statistics must keep up
