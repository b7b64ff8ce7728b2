"""Dense layers and embeddings with fake-quantized weights."""

import math

import keras
from keras import ops

from keras_distill.quantized_layers.kernels import Quantized, with_bias
from keras_distill.quantized_layers.rounding import PACKAGE, fake_quantized


def _product(inputs, kernel, bits):
    """Returns `inputs @ kernel` as a convolution of one position: `(positions, units)`.

    For a convolution LiteRT holds a scale for each output.
    """
    size, units = kernel.shape
    kernel = fake_quantized(ops.reshape(kernel, (1, 1, size, units)), bits)
    inputs = ops.reshape(inputs, (-1, 1, 1, size))
    return ops.reshape(ops.conv(inputs, kernel, data_format="channels_last"), (-1, units))


def _unflattened(outputs, inputs, free, tail):
    """Returns rows of a product in the first `free` axes of the inputs, followed by `tail`."""
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

    It computes as a convolution of one position, for which LiteRT holds a scale for each output.
    """

    def affine(self, inputs):
        outputs = with_bias(_product(inputs, self.kernel, self.bits), self.bias)
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
        if whole:  # LiteRT then adds it inside of the product
            outputs = ops.add(outputs, ops.reshape(self.bias, (-1,)))
        outputs = _unflattened(outputs, inputs, len(inputs.shape) - summed, tail)
        return outputs if whole else with_bias(outputs, self.bias)

    def rounded(self):
        tail = self.kernel.shape[summed_axes(self.equation) :]
        matrix = ops.reshape(self.kernel, (-1, math.prod(tail)))
        return ops.reshape(fake_quantized(matrix, self.bits), self.kernel.shape)


def summed_axes(equation):
    """Returns how many last input axes an einsum sums with its kernel's first axes; 0 for others.

    Args:
        equation: The equation, such as "abc,cde->abde", where that is one.
    """
    inputs, _, rest = equation.replace(" ", "").partition(",")
    kernel, _, outputs = rest.partition("->")
    for count in range(1, len(kernel)):
        free, summed, new = inputs[:-count], kernel[:count], kernel[count:]
        if inputs[-count:] == summed and outputs == free + new and free and "." not in equation:
            return count
    return 0


class _Looked(Quantized):
    """The base of both embeddings: vectors that are fake-quantized by one scale."""

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

    In reverse it computes in floats, with the rounded vectors if they are tied.
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
