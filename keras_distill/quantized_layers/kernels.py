"""Layers whose kernels are read fake-quantized, each as LiteRT computes it."""

import math

import keras
from keras import ops

from keras_distill.quantized_layers.rounding import (
    FUSED,
    PACKAGE,
    activation_name,
    fake_quantized,
    in_fixed_range,
    rounded_silu,
)


class Quantized:
    """What the layers below share.

    `before` and `after` are the `ActivationRange`s of what goes in and of what comes out, where the
    layer stands inside of another one; in a graph they are layers of their own.

    Args:
        bits: 8 or 4, the bits of the kernel; or `None` for a kernel that stays as it is.
    """

    least_bits = 4  # that LiteRT's quantizer has for this kind of layer
    multiplies = True
    before = after = None

    @classmethod
    def settings(cls, bits, activations):
        """What a layer of this class is made with, for these bits of weights and activations."""
        return {"bits": max(bits, cls.least_bits)}

    def __init__(self, *args, bits=8, **kwargs):
        super().__init__(*args, **kwargs)
        self.bits = bits

    def call(self, inputs, training=None):
        if self.after is None:
            return self.activation(self.affine(inputs))
        outputs, name = self.affine(self.before(inputs)), activation_name(self)
        if name in FUSED:
            return self.after(self.activation(outputs))
        if name == "silu":
            return rounded_silu(self.after(outputs))
        return in_fixed_range(self.activation(self.after(outputs)), name)

    def affine(self, inputs):
        """The product with the rounded kernel, and the bias."""
        raise NotImplementedError

    def rounded(self):
        """The kernel as it computes, in the shape in which it is kept."""
        return fake_quantized(self.kernel, self.bits)

    def get_config(self):
        return {**super().get_config(), "bits": self.bits}


def _with_bias(outputs, bias):
    return outputs if bias is None else ops.add(outputs, bias)


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
        return _with_bias(ops.squeeze(outputs, 1), self.bias)


@keras.saving.register_keras_serializable(PACKAGE)
class QuantizedConv2D(Quantized, keras.layers.Conv2D):
    """A `Conv2D` whose kernel is fake-quantized to `bits` bits."""

    def affine(self, inputs):
        return _with_bias(self.convolution_op(inputs, self.rounded()), self.bias)


class _Depthwise(Quantized):
    """What both depthwise convolutions share: a scale for each channel that comes out."""

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
        return _with_bias(outputs, self.bias)


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
        return _with_bias(ops.squeeze(outputs, 1), self.bias)


class _Transposed(Quantized):
    """What both transposed convolutions share.

    Args:
        per_channel: Whether each channel that comes out has a scale of its own, as in a file with
            integer weights alone. Where LiteRT computes in integers there is one scale in all.
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
        return _with_bias(outputs, self.bias)


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
        return _with_bias(ops.squeeze(outputs, 1), self.bias)


def _product(inputs, kernel, bits):
    """`inputs @ kernel` for a matrix, as a convolution of one position; `(positions, units)`.

    There LiteRT holds a scale for each output.
    """
    size, units = kernel.shape
    kernel = fake_quantized(ops.reshape(kernel, (1, 1, size, units)), bits)
    inputs = ops.reshape(inputs, (-1, 1, 1, size))
    return ops.reshape(ops.conv(inputs, kernel, data_format="channels_last"), (-1, units))


def _unflattened(outputs, inputs, free, tail):
    """Rows of a product in the first `free` axes of the inputs, with `tail` behind these."""
    if free == 1:
        return ops.reshape(outputs, (-1, *tail))
    middle = inputs.shape[1:free]
    unknown = sum(size is None for size in middle)
    if unknown > 1:
        return ops.reshape(outputs, (*ops.shape(inputs)[:free], *tail))
    first = -1 if not unknown else ops.shape(inputs)[0]
    return ops.reshape(outputs, (first, *(-1 if s is None else s for s in middle), *tail))


@keras.saving.register_keras_serializable(PACKAGE)
class QuantizedDense(Quantized, keras.layers.Dense):
    """A `Dense` whose kernel is fake-quantized to `bits` bits.

    It computes as a convolution of one position: there LiteRT holds a scale for each output.
    """

    def affine(self, inputs):
        outputs = _with_bias(_product(inputs, self.kernel, self.bits), self.bias)
        return _unflattened(outputs, inputs, len(inputs.shape) - 1, (self.units,))


@keras.saving.register_keras_serializable(PACKAGE)
class QuantizedEinsumDense(Quantized, keras.layers.EinsumDense):
    """An `EinsumDense` that is a product of matrices, with a kernel of `bits` bits.

    It computes as `QuantizedDense` does.
    """

    def affine(self, inputs):
        summed = summed_axes(self.equation)
        tail = self.kernel.shape[summed:]
        matrix = ops.reshape(self.kernel, (-1, math.prod(tail)))
        outputs = _product(inputs, matrix, self.bits)
        whole = self.bias is not None and tuple(self.bias.shape) == tuple(tail)
        if whole:  # then LiteRT adds it inside of the product
            outputs = ops.add(outputs, ops.reshape(self.bias, (-1,)))
        outputs = _unflattened(outputs, inputs, len(inputs.shape) - summed, tail)
        return outputs if whole else _with_bias(outputs, self.bias)

    def rounded(self):
        tail = self.kernel.shape[summed_axes(self.equation) :]
        matrix = ops.reshape(self.kernel, (-1, math.prod(tail)))
        return ops.reshape(fake_quantized(matrix, self.bits), self.kernel.shape)


def summed_axes(equation):
    """How many last axes of the inputs an einsum sums with the first of its kernel; 0 for others.

    Args:
        equation: As in "abc,cde->abde", where that is one.
    """
    inputs, _, rest = equation.replace(" ", "").partition(",")
    kernel, _, outputs = rest.partition("->")
    for count in range(1, len(kernel)):
        free, summed, new = inputs[:-count], kernel[:count], kernel[count:]
        if inputs[-count:] == summed and outputs == free + new and free and "." not in equation:
            return count
    return 0


class _Looked(Quantized):
    """What both embeddings share: vectors that are fake-quantized by one scale in all."""

    least_bits = 8
    multiplies = False

    def call(self, inputs):
        vectors = ops.take(self.rounded(), ops.cast(inputs, "int32"), axis=0)
        return ops.cast(vectors, self.compute_dtype)

    def rounded(self):
        return fake_quantized(self.embeddings, self.bits, per_channel=False)


@keras.saving.register_keras_serializable(PACKAGE)
class QuantizedEmbedding(_Looked, keras.layers.Embedding):
    """An `Embedding` whose vectors are fake-quantized to 8 bits, by one scale."""


@keras.saving.register_keras_serializable(PACKAGE)
class QuantizedReversibleEmbedding(_Looked, keras.layers.ReversibleEmbedding):
    """A `ReversibleEmbedding` whose vectors are fake-quantized to 8 bits, by one scale.

    In reverse it computes in floats, where its vectors are tied with the rounded ones.
    """

    def call(self, inputs, reverse=False):
        if not reverse:
            return super().call(inputs)
        kernel = ops.transpose(self.rounded()) if self.tie_weights else self.reverse_embeddings
        if self.reverse_dtype is not None:
            inputs, kernel = (ops.cast(each, self.reverse_dtype) for each in (inputs, kernel))
        logits = ops.matmul(inputs, kernel)
        if self.logit_soft_cap is not None:
            logits = self.logit_soft_cap * ops.tanh(logits / self.logit_soft_cap)
        return logits


KINDS = {
    keras.layers.Conv1D: QuantizedConv1D,
    keras.layers.Conv2D: QuantizedConv2D,
    keras.layers.DepthwiseConv1D: QuantizedDepthwiseConv1D,
    keras.layers.DepthwiseConv2D: QuantizedDepthwiseConv2D,
    keras.layers.Conv1DTranspose: QuantizedConv1DTranspose,
    keras.layers.Conv2DTranspose: QuantizedConv2DTranspose,
    keras.layers.Dense: QuantizedDense,
    keras.layers.EinsumDense: QuantizedEinsumDense,
    keras.layers.Embedding: QuantizedEmbedding,
    keras.layers.ReversibleEmbedding: QuantizedReversibleEmbedding,
}


def kind_of(layer):
    """The class that computes as a layer does, fake-quantized; `None` where there is none."""
    of = next((kind for kind in type(layer).__mro__ if kind in KINDS), None)
    if of is None or isinstance(layer, Quantized):
        return None
    if type(layer).call is not of.call or type(layer).build is not of.build:
        return None  # a class of somebody else's that computes in its own way
    if getattr(layer, "data_format", None) == "channels_first":
        return None
    if isinstance(layer, keras.layers.EinsumDense) and not summed_axes(layer.equation):
        return None
    transposed = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose)
    if isinstance(layer, transposed) and (
        max(layer.dilation_rate) > 1 or (len(layer.strides) == 1 and layer.output_padding)
    ):
        return None
    return KINDS[of]
