"""Layers that compute in floats with the numbers that integers can hold (fake quantization)."""

import contextlib
import typing

import keras
from keras import ops, quantizers

PACKAGE = "keras_distill"


def fake_quantized(weight, bits, per_channel=True):
    """A weight rounded to a symmetric grid of integers times a scale, as LiteRT holds it.

    With `n = 2 ** (bits - 1) - 1`, the scale is `max |weight| / n` and the integers go from -n to
    n. Gradients pass straight through the rounding.

    Args:
        weight: A tensor; its last axis holds the channels.
        bits: 8 or 4, or `None` for a weight that stays as it is.
        per_channel: Whether each channel has its own scale. Defaults to `True`.
    """
    if bits is None:
        return weight
    axes = list(range(len(weight.shape) - 1)) if per_channel else None
    largest = ops.stop_gradient(ops.maximum(ops.max(ops.abs(weight), axis=axes), 1e-8))
    axis = -1 if per_channel else None
    return quantizers.fake_quant_with_min_max_vars(
        weight, -largest, largest, num_bits=bits, narrow_range=True, axis=axis
    )


@keras.saving.register_keras_serializable(PACKAGE)
class ActivationRange(keras.layers.Layer):
    """Rounds what passes to 256 numbers between the least and the greatest it has seen.

    While it is trained it follows the range of its batches: the first gives it, the others move it
    by an exponential average. Zero is always one of the numbers. Gradients pass straight through
    inside of the range, and are zero outside.

    Args:
        momentum: The share, from 0 to 1, that the range keeps of itself in a step. Defaults to
            `0.99`.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference".
    """

    def __init__(self, momentum=0.99, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum
        self.calibrating = False  # while it is true, the range follows outside of training too

    def build(self, input_shape):
        made = {"shape": (), "dtype": "float32", "trainable": False, "autocast": False,
                "aggregation": "mean"}  # fmt: skip
        self.low = self.add_weight(name="low", initializer=_constant(-6.0), **made)
        self.high = self.add_weight(name="high", initializer=_constant(6.0), **made)
        self.batches = self.add_weight(name="batches", initializer="zeros", **made)

    def call(self, inputs, training=False):
        if training or self.calibrating:
            self._follow(ops.cast(ops.stop_gradient(inputs), "float32"))
        return quantizers.fake_quant_with_min_max_vars(inputs, self.low.value, self.high.value)

    def _follow(self, inputs):
        first = ops.equal(self.batches.value, 0.0)
        keep = ops.where(first, 0.0, self.momentum)
        low = ops.minimum(ops.min(inputs), 0.0)
        high = ops.maximum(ops.max(inputs), low + 1e-6)
        self.low.assign(keep * self.low + (1.0 - keep) * low)
        self.high.assign(keep * self.high + (1.0 - keep) * ops.maximum(high, 1e-6))
        self.batches.assign_add(1.0)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}


def _constant(value):
    return keras.initializers.Constant(value)


class _Quantized:
    """What the layers below share: a kernel that is read fake-quantized, per output channel."""

    def __init__(self, *args, bits=8, **kwargs):
        super().__init__(*args, **kwargs)
        self.bits = bits

    @property
    def kernel(self):
        return fake_quantized(super().kernel, self.bits)

    def get_config(self):
        return {**super().get_config(), "bits": self.bits}

    def rounded(self):
        """The kernel as it computes."""
        return self.kernel


@keras.saving.register_keras_serializable(PACKAGE)
class QuantizedConv1D(_Quantized, keras.layers.Conv1D):
    """A `Conv1D` whose kernel is fake-quantized to `bits` bits.

    It computes as a convolution of images one pixel high, which LiteRT has.
    """

    def call(self, inputs):
        padding = self.padding
        if padding == "causal":
            before = self.dilation_rate[0] * (self.kernel_size[0] - 1)
            inputs, padding = ops.pad(inputs, [[0, 0], [before, 0], [0, 0]]), "valid"
        outputs = ops.conv(
            ops.expand_dims(inputs, 1),
            fake_quantized(ops.expand_dims(self._kernel, 0), self.bits),
            strides=(1, *self.strides),
            padding=padding,
            dilation_rate=(1, *self.dilation_rate),
            data_format="channels_last",
        )
        outputs = ops.squeeze(outputs, 1)
        return self.activation(outputs if self.bias is None else ops.add(outputs, self.bias))


@keras.saving.register_keras_serializable(PACKAGE)
class QuantizedConv2D(_Quantized, keras.layers.Conv2D):
    """A `Conv2D` whose kernel is fake-quantized to `bits` bits."""


@keras.saving.register_keras_serializable(PACKAGE)
class QuantizedDense(_Quantized, keras.layers.Dense):
    """A `Dense` whose kernel is fake-quantized to `bits` bits.

    It computes as a convolution of one position: there LiteRT holds a scale for each output.
    """

    def call(self, inputs, training=None):
        size, units = inputs.shape[-1], self.units
        kernel = fake_quantized(ops.reshape(self._kernel, (1, 1, size, units)), self.bits)
        outputs = ops.conv(
            ops.reshape(inputs, (-1, 1, 1, size)), kernel, data_format="channels_last"
        )
        outputs = ops.reshape(outputs, (-1, units))
        if self.bias is not None:
            outputs = ops.add(outputs, self.bias)
        outputs = self.activation(outputs)
        if len(inputs.shape) == 2:
            return outputs
        middle = inputs.shape[1:-1]
        free = sum(size is None for size in middle)
        if free > 1:
            return ops.reshape(outputs, (*ops.shape(inputs)[:-1], units))
        first = -1 if not free else ops.shape(inputs)[0]
        return ops.reshape(outputs, (first, *(-1 if size is None else size for size in middle),
                                     units))  # fmt: skip


@keras.saving.register_keras_serializable(PACKAGE)
class QuantizedEmbedding(_Quantized, keras.layers.Embedding):
    """An `Embedding` whose vectors are fake-quantized to `bits` bits, by one scale."""

    kernel = None

    def call(self, inputs):
        vectors = ops.take(self.rounded(), ops.cast(inputs, "int32"), axis=0)
        return ops.cast(vectors, self.compute_dtype)

    def rounded(self):
        return fake_quantized(self.embeddings, self.bits, per_channel=False)


QUANTIZED = {
    keras.layers.Conv1D: QuantizedConv1D,
    keras.layers.Conv2D: QuantizedConv2D,
    keras.layers.Dense: QuantizedDense,
    keras.layers.Embedding: QuantizedEmbedding,
}


def kind_of(layer):
    """The class that computes as a layer does, fake-quantized; `None` where there is none."""
    config = layer.get_config() if type(layer) in QUANTIZED else {}
    if config.get("data_format") == "channels_first" or config.get("groups", 1) != 1:
        return None
    return QUANTIZED.get(type(layer))


class Simulation(typing.NamedTuple):
    """What a student's fake quantization stands for.

    Args:
        weights: The bits of the weights.
        activations: Whether what passes between the layers is rounded to 8 bits too.
    """

    weights: int
    activations: bool


def simulation_of(model):
    """The `Simulation` of a model, or `None` where it has no fake quantization."""
    found = model.layers
    bits = {layer.bits for layer in found if isinstance(layer, _Quantized)}
    if not bits:
        return None
    return Simulation(min(bits), any(isinstance(layer, ActivationRange) for layer in found))


@contextlib.contextmanager
def with_rounded_weights(model):
    """A block in which the weights are the rounded ones, without the operations that round them."""
    changed = [layer for layer in model.layers if isinstance(layer, _Quantized)]
    before = [(layer, layer.bits, layer.get_weights()) for layer in changed]
    try:
        for layer, _, weights in before:
            rounded = ops.convert_to_numpy(layer.rounded())
            layer.set_weights([rounded, *weights[1:]])
            layer.bits = None
        yield
    finally:
        for layer, bits, weights in before:
            layer.bits = bits
            layer.set_weights(weights)
