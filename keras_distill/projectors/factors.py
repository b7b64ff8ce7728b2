"""Layers for factor transfer: the teacher's paraphraser and the student's translator."""

import keras
from keras import layers

from keras_distill.projectors.regressors import convolution


@keras.saving.register_keras_serializable(package="keras_distill")
class Paraphraser(keras.Model):
    """An autoencoder of the teacher's feature maps. Its code is the teacher's factor.

    Three 3x3 convolutions compute the factor, and three transposed ones compute the maps from it,
    each followed by a leaky ReLU of slope 0.1. Train it first, to reproduce the teacher's feature
    maps. Then put `encoder` on top of the teacher, as `losses.FactorTransfer` shows.

    Args:
        channels: the number of channels of the teacher's feature maps.
        rate: the factor's channels divided by those of the maps, positive. Defaults to `0.5`.
        **kwargs: as in `keras.Model`.

    Call arguments:
        inputs: the teacher's feature maps, (batch, height, width, channels).

    Returns:
        The maps again, of the same shape.

    Raises:
        ValueError: if `rate` is not positive.

    Example:

    ```python
    maps = keras.Model(teacher.input, teacher.get_layer("block_2").output).predict(x)
    paraphraser = projectors.Paraphraser(maps.shape[-1])
    paraphraser.compile("adam", "mse")
    paraphraser.fit(maps, maps, epochs=2)
    factor = paraphraser.encoder(teacher.get_layer("block_2").output)
    ```

    Reference:
        - [Kim et al., 2018](https://arxiv.org/abs/1802.04977)
    """

    def __init__(self, channels: int, rate: float = 0.5, **kwargs):
        super().__init__(**kwargs)
        if not rate > 0:
            raise ValueError(f"`rate` must be positive. Received: rate={rate}")
        self.channels, self.rate = channels, rate
        code = max(1, round(channels * rate))
        self.encoder = _leaky(convolution, channels, code, code, name="encoder")
        self.decoder = _leaky(_transposed, code, channels, channels, name="decoder")

    def build(self, input_shape):
        self.encoder.build(input_shape)
        self.decoder.build(self.encoder.compute_output_shape(input_shape))

    def call(self, inputs):
        return self.decoder(self.encoder(inputs))

    def get_config(self):
        return {**super().get_config(), "channels": self.channels, "rate": self.rate}


@keras.saving.register_keras_serializable(package="keras_distill")
class Translator(layers.Layer):
    """Computes the student's factor by three 3x3 convolutions with leaky ReLUs of slope 0.1.

    Args:
        channels: the number of channels of the teacher's factor.
        **kwargs: as in `keras.layers.Layer`.

    Call arguments:
        inputs: the student's feature maps, (batch, height, width, any channels).

    Returns:
        (batch, height, width, channels).

    Example:

    ```python
    translator = projectors.Translator(channels=16)
    Term(losses.FactorTransfer(), student="block_2", teacher="output:factor", projector=translator)
    ```

    Reference:
        - [Kim et al., 2018](https://arxiv.org/abs/1802.04977)
    """

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels

    def build(self, input_shape):
        widths = (input_shape[-1], self.channels, self.channels)
        self.steps = _leaky(convolution, *widths, name="steps")
        self.steps.build(input_shape)

    def call(self, inputs):
        return self.steps(inputs)

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}


def _leaky(layer, *widths, name):
    steps = []
    for width in widths:
        steps += [layer(width, 3), layers.LeakyReLU(0.1)]
    return keras.Sequential(steps, name=name)


def _transposed(width, size):
    return layers.Conv2DTranspose(width, size, padding="same")
