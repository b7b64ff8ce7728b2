"""Maps layers to their fake-quantized classes."""

import keras

from keras_distill.quantized_layers.convolutions import (
    QuantizedConv1D,
    QuantizedConv1DTranspose,
    QuantizedConv2D,
    QuantizedConv2DTranspose,
    QuantizedDepthwiseConv1D,
    QuantizedDepthwiseConv2D,
)
from keras_distill.quantized_layers.kernels import Quantized
from keras_distill.quantized_layers.products import (
    QuantizedDense,
    QuantizedEinsumDense,
    QuantizedEmbedding,
    QuantizedReversibleEmbedding,
    summed_axes,
)

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
    """Returns the fake-quantized class for a layer, or `None` if there is none."""
    of = next((kind for kind in type(layer).__mro__ if kind in KINDS), None)
    if of is None or isinstance(layer, Quantized):
        return None
    if type(layer).call is not of.call or type(layer).build is not of.build:
        return None  # another package's class, which computes in its own way
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
