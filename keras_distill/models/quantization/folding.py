"""Prepares layers for quantization: folds normalizations, splits separable convolutions."""

import typing

import keras
import numpy as np
from keras import layers

from keras_distill.quantized_layers import kind_of
from keras_distill.quantized_layers.rounding import activation_name

DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose)
# LiteRT computes these layers in one operation with the addition and product behind them.
KERNELS = (layers.Dense, layers.Conv1D, layers.Conv2D, *DEPTHWISE, *TRANSPOSED)
SEPARABLE = {
    layers.SeparableConv1D: (layers.DepthwiseConv1D, layers.Conv1D),
    layers.SeparableConv2D: (layers.DepthwiseConv2D, layers.Conv2D),
}


class Part(typing.NamedTuple):
    """A layer that computes a part of another layer, with its weights.

    Args:
        layer: A Keras layer. The layer of a separable convolution is not built.
        weights: Its weights as arrays.
    """

    layer: keras.layers.Layer
    weights: list


def parts(layer):
    """Splits a separable convolution into two convolutions; returns another layer as one part.

    LiteRT computes a separable convolution in two operations, with a rounding between them.

    Args:
        layer: A built layer.

    Returns:
        A list of `Part`s. The last has the layer's name.
    """
    kinds = separable(layer)
    if kinds is None:
        return [Part(layer, layer.get_weights())]
    depthwise, pointwise, *bias = layer.get_weights()
    depth = kinds[0](
        layer.kernel_size, layer.strides, layer.padding, layer.depth_multiplier,
        dilation_rate=layer.dilation_rate, use_bias=False, name=f"{layer.name}_depthwise",
    )  # fmt: skip
    point = kinds[1](
        layer.filters, 1, use_bias=bool(bias), activation=layer.activation, name=layer.name
    )
    return [Part(depth, [depthwise]), Part(point, [pointwise, *bias])]


def separable(layer):
    """Returns the two layer classes of a separable convolution, or `None` for another layer."""
    if getattr(layer, "data_format", None) == "channels_first":
        return None
    return SEPARABLE.get(type(layer))


def can_fold(layer, after):
    """Returns whether the normalization in the next call can be folded into a layer's weights."""
    fits = separable(layer) or (isinstance(layer, KERNELS) and kind_of(layer) is not None)
    if not fits or activation_name(layer) != "linear" or after is None:
        return False
    last = len(after.outputs[0].shape) - 1
    normalization = after.operation
    return type(normalization) is layers.BatchNormalization and normalization.axis in (-1, last)


def folded(part, normalization):
    """Returns the kernel and bias of a part with the normalization behind it folded in."""
    kernel, *bias = part.weights
    gamma, beta = normalization.gamma, normalization.beta
    scale = 1.0 if gamma is None else np.asarray(gamma)
    shift = 0.0 if beta is None else np.asarray(beta)
    mean, variance = (np.asarray(each) for each in (normalization.moving_mean,
                                                    normalization.moving_variance))  # fmt: skip
    scale = scale / np.sqrt(variance + normalization.epsilon)
    along = scale
    if isinstance(part.layer, DEPTHWISE):  # its kernel ends in (channels, multiplier)
        along = scale.reshape(kernel.shape[-2:])
    elif isinstance(part.layer, TRANSPOSED):  # it ends in (outputs, inputs)
        along = scale[:, None]
    return [kernel * along, ((bias[0] if bias else 0.0) - mean) * scale + shift]
