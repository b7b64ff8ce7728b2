"""The fake quantization of a student, and the rounded weights for its file."""

import contextlib
import typing

from keras import ops

from keras_distill._keras import layers as keras_layers
from keras_distill.quantized_layers.kernels import Quantized
from keras_distill.quantized_layers.rounding import ActivationRange


class Simulation(typing.NamedTuple):
    """The settings of a student's fake quantization.

    Args:
        weights: The bits of the weights.
        activations: Whether the values between the layers are rounded to 8 bits too.
    """

    weights: int
    activations: bool


def simulation_of(model):
    """Returns the `Simulation` of a model, or `None` if it has no fake quantization."""
    found = keras_layers.sublayers(model, recursive=True)
    bits = {layer.bits for layer in found if isinstance(layer, Quantized)}
    if not bits:
        return None
    return Simulation(min(bits), any(isinstance(layer, ActivationRange) for layer in found))


@contextlib.contextmanager
def with_rounded_weights(model):
    """Within the block, the weights are rounded ones, without the operations that round them."""
    found = keras_layers.sublayers(model, recursive=True)
    changed = [layer for layer in found if isinstance(layer, Quantized)]
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
