"""Layers with fake quantization: they compute in floats with numbers that integers can hold."""

from keras_distill.quantized_layers.convolutions import (
    QuantizedConv1D,
    QuantizedConv1DTranspose,
    QuantizedConv2D,
    QuantizedConv2DTranspose,
    QuantizedDepthwiseConv1D,
    QuantizedDepthwiseConv2D,
)
from keras_distill.quantized_layers.inside import QuantizedBlock
from keras_distill.quantized_layers.kinds import kind_of
from keras_distill.quantized_layers.products import (
    QuantizedDense,
    QuantizedEinsumDense,
    QuantizedEmbedding,
    QuantizedReversibleEmbedding,
)
from keras_distill.quantized_layers.rounding import ActivationRange, fake_quantized
from keras_distill.quantized_layers.simulation import simulation_of, with_rounded_weights

__all__ = [
    "ActivationRange",
    "QuantizedBlock",
    "QuantizedConv1D",
    "QuantizedConv1DTranspose",
    "QuantizedConv2D",
    "QuantizedConv2DTranspose",
    "QuantizedDense",
    "QuantizedDepthwiseConv1D",
    "QuantizedDepthwiseConv2D",
    "QuantizedEinsumDense",
    "QuantizedEmbedding",
    "QuantizedReversibleEmbedding",
    "fake_quantized",
    "kind_of",
    "simulation_of",
    "with_rounded_weights",
]
