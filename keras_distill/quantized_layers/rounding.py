"""Rounds weights and activations, in floats, to numbers that integers can hold."""

import keras
from keras import ops, quantizers

PACKAGE = "keras_distill"
FUSED = ("linear", "relu")  # activations that LiteRT computes together with the layer
# The ranges of these activations' outputs in LiteRT, whatever the data.
FIXED = {
    "softmax": (0.0, 255 / 256),
    "sigmoid": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
}


def fake_quantized(weight, bits, per_channel=True):
    """Rounds a weight to a symmetric grid of integers times a scale, as LiteRT holds it.

    With `n = 2 ** (bits - 1) - 1`, the scale is `max |weight| / n` and the integers go from -n to
    n. Gradients pass straight through the rounding.

    Args:
        weight: A tensor; its last axis holds the channels.
        bits: 8 or 4, or `None` for a weight that is not quantized.
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


def activation_name(layer):
    """Returns the name of a layer's own activation; without one it is "linear"."""
    return getattr(getattr(layer, "activation", None), "__name__", "linear")


def in_fixed_range(value, activation):
    """Rounds an activation's output to LiteRT's fixed range for it, if there is one.

    Args:
        value: A tensor.
        activation: The activation's name.
    """
    if activation not in FIXED:
        return value
    return quantizers.fake_quant_with_min_max_vars(value, *FIXED[activation])


@keras.saving.register_keras_serializable(PACKAGE)
def rounded_silu(x):
    """Returns `x * sigmoid(x)` as LiteRT computes it in integers, with the sigmoid rounded."""
    return x * in_fixed_range(ops.sigmoid(x), "sigmoid")


@keras.saving.register_keras_serializable(PACKAGE)
class RoundedSoftmax(keras.layers.Softmax):
    """A softmax that is rounded as LiteRT rounds it."""

    def call(self, inputs, mask=None):
        return in_fixed_range(super().call(inputs, mask), "softmax")


@keras.saving.register_keras_serializable(PACKAGE)
class ActivationRange(keras.layers.Layer):
    """Rounds its input to 256 numbers between the least and the greatest that it has seen.

    In training it follows the range of its batches. The first batch sets the range, and later ones
    move it by an exponential average. Zero is always one of the numbers. Gradients pass straight
    through inside of the range, and are zero outside.

    Args:
        momentum: The share of the old range in each step, from 0 to 1. Defaults to `0.99`.
        fixed: A fixed range `(low, high)`. Defaults to `None`.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference".
    """

    def __init__(self, momentum=0.99, fixed=None, **kwargs):
        super().__init__(**kwargs)
        self.momentum, self.fixed = momentum, fixed
        self.calibrating = False  # if true, the range follows outside of training too
        self.supports_masking = True

    def build(self, input_shape):
        if self.fixed is not None:
            return
        made = {"shape": (), "dtype": "float32", "trainable": False, "autocast": False,
                "aggregation": "mean"}  # fmt: skip
        self.low = self.add_weight(name="low", initializer=_constant(-6.0), **made)
        self.high = self.add_weight(name="high", initializer=_constant(6.0), **made)
        self.batches = self.add_weight(name="batches", initializer="zeros", **made)

    def call(self, inputs, training=False):
        if self.fixed is not None:
            return quantizers.fake_quant_with_min_max_vars(inputs, *self.fixed)
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
        return {**super().get_config(), "momentum": self.momentum, "fixed": self.fixed}


def _constant(value):
    return keras.initializers.Constant(value)
