"""Convolutions with fake-quantized kernels, computed as LiteRT computes them."""

import keras
from keras import ops

from keras_distill.quantized_layers.kernels import Quantized, with_bias
from keras_distill.quantized_layers.rounding import PACKAGE, fake_quantized


@keras.saving.register_keras_serializable(PACKAGE)
class QuantizedConv1D(Quantized, keras.layers.Conv1D):
    """A `Conv1D` whose kernel is fake-quantized to `bits` bits.

    It computes as a convolution of images one pixel high, which LiteRT has.
    """

    def affine(self, inputs):
        padding = self.padding
        if padding == "causal":
            before = self.dilation_rate[0] * (self.kernel_size[0] - 1)
            inputs, padding = ops.pad(inputs, [[0, 0], [before, 0], [0, 0]]), "valid"
        outputs = ops.conv(
            ops.expand_dims(inputs, 1),
            fake_quantized(ops.expand_dims(self.kernel, 0), self.bits),
            strides=(1, *self.strides),
            padding=padding,
            dilation_rate=(1, *self.dilation_rate),
            data_format="channels_last",
        )
        return with_bias(ops.squeeze(outputs, 1), self.bias)


@keras.saving.register_keras_serializable(PACKAGE)
class QuantizedConv2D(Quantized, keras.layers.Conv2D):
    """A `Conv2D` whose kernel is fake-quantized to `bits` bits."""

    def affine(self, inputs):
        return with_bias(self.convolution_op(inputs, self.rounded()), self.bias)


class _Depthwise(Quantized):
    """The base of both depthwise convolutions, with a scale for each output channel."""

    least_bits = 8

    def rounded(self):
        *sizes, channels, multiplier = self.kernel.shape
        flat = ops.reshape(self.kernel, (*sizes, 1, channels * multiplier))
        return ops.reshape(fake_quantized(flat, self.bits), self.kernel.shape)


@keras.saving.register_keras_serializable(PACKAGE)
class QuantizedDepthwiseConv2D(_Depthwise, keras.layers.DepthwiseConv2D):
    """A `DepthwiseConv2D` whose kernel is fake-quantized to 8 bits."""

    def affine(self, inputs):
        outputs = ops.depthwise_conv(
            inputs,
            self.rounded(),
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format="channels_last",
        )
        return with_bias(outputs, self.bias)


@keras.saving.register_keras_serializable(PACKAGE)
class QuantizedDepthwiseConv1D(_Depthwise, keras.layers.DepthwiseConv1D):
    """A `DepthwiseConv1D` whose kernel is fake-quantized to 8 bits.

    It computes as a convolution of images one pixel high, which LiteRT has.
    """

    def affine(self, inputs):
        size, channels, multiplier = self.kernel.shape
        flat = ops.reshape(self.kernel, (1, size, 1, channels * multiplier))
        kernel = ops.reshape(fake_quantized(flat, self.bits), (1, size, channels, multiplier))
        outputs = ops.depthwise_conv(
            ops.expand_dims(inputs, 1),
            kernel,
            strides=(self.strides[0],) * 2,
            padding=self.padding,
            dilation_rate=(1, *self.dilation_rate) if self.dilation_rate[0] > 1 else 1,
            data_format="channels_last",
        )
        return with_bias(ops.squeeze(outputs, 1), self.bias)


class _Transposed(Quantized):
    """The base of both transposed convolutions.

    Args:
        per_channel: Whether each output channel has a scale of its own, as in a file with integer
            weights alone. If LiteRT computes in integers, there is one scale for all.
    """

    least_bits = 8

    def __init__(self, *args, per_channel=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.per_channel = per_channel

    @classmethod
    def settings(cls, bits, activations):
        return {**super().settings(bits, activations), "per_channel": activations is None}

    def rounded(self):
        if not self.per_channel:
            return fake_quantized(self.kernel, self.bits, per_channel=False)
        *axes, out, into = range(len(self.kernel.shape))
        axes += [into, out]
        return ops.transpose(fake_quantized(ops.transpose(self.kernel, axes), self.bits), axes)

    def get_config(self):
        return {**super().get_config(), "per_channel": self.per_channel}


@keras.saving.register_keras_serializable(PACKAGE)
class QuantizedConv2DTranspose(_Transposed, keras.layers.Conv2DTranspose):
    """A `Conv2DTranspose` whose kernel is fake-quantized to 8 bits."""

    def affine(self, inputs):
        outputs = ops.conv_transpose(
            inputs,
            self.rounded(),
            strides=list(self.strides),
            padding=self.padding,
            output_padding=self.output_padding,
            data_format="channels_last",
        )
        return with_bias(outputs, self.bias)


@keras.saving.register_keras_serializable(PACKAGE)
class QuantizedConv1DTranspose(_Transposed, keras.layers.Conv1DTranspose):
    """A `Conv1DTranspose` whose kernel is fake-quantized to 8 bits.

    It computes as a transposed convolution of images one pixel high, which LiteRT has.
    """

    def affine(self, inputs):
        outputs = ops.conv_transpose(
            ops.expand_dims(inputs, 1),
            ops.expand_dims(self.rounded(), 0),
            strides=[1, *self.strides],
            padding=self.padding,
            data_format="channels_last",
        )
        return with_bias(ops.squeeze(outputs, 1), self.bias)
