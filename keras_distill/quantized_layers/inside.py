"""A layer that holds others, such as an attention, with fake-quantized inner layers."""

import keras

from keras_distill._keras import layers as keras_layers
from keras_distill.quantized_layers.kernels import Quantized
from keras_distill.quantized_layers.kinds import kind_of
from keras_distill.quantized_layers.rounding import PACKAGE, ActivationRange, RoundedSoftmax


@keras.saving.register_keras_serializable(PACKAGE)
class QuantizedBlock(keras.layers.Layer):
    """Computes as the layer that it holds, with fake-quantized layers inside.

    LiteRT computes each of their products in integers, from a rounded input to a rounded output. It
    computes what stands between them, such as a normalization, in floats.

    Args:
        layer: A `keras.layers.Layer` that holds other layers.
        bits: 8 or 4, the bits of the weights. Defaults to `8`.
        activations: 8, the bits of each product's input and output, or `None` for floats. Defaults
            to `8`.
    """

    def __init__(self, layer, bits=8, activations=8, **kwargs):
        super().__init__(**{"name": layer.name, "dtype": layer.dtype_policy, **kwargs})
        self.layer, self.bits, self.activations = layer, bits, activations
        self.supports_masking = layer.supports_masking

    def build_from_config(self, config):
        if not self.layer.built:
            self.layer.build_from_config(config)
        for each in (self.layer, *keras_layers.sublayers(self.layer, recursive=True)):
            self._quantize(each)
        self.built = True

    def _quantize(self, layer):
        """Makes a built layer compute as its fake-quantized class, with the weights that it has."""
        kind = kind_of(layer)
        if kind is not None:
            layer.__class__ = kind
            for name, value in kind.settings(self.bits, self.activations).items():
                setattr(layer, name, value)
        if self.activations is None:
            return
        if type(layer) is keras.layers.Softmax:  # LiteRT gives it integers before a product
            layer.__class__ = RoundedSoftmax
        keras_layers.compute_scores(layer)
        if isinstance(layer, Quantized) and layer.multiplies:
            ends = {end: ActivationRange(name=f"{layer.name}_{end}") for end in ("before", "after")}
            keras_layers.adopt(layer, **ends)

    def get_build_config(self):
        return self.layer.get_build_config()

    def call(self, *args, **kwargs):
        return self.layer(*args, **kwargs)

    def compute_mask(self, inputs, previous_mask):
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self):
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer, "bits": self.bits,
                "activations": self.activations}  # fmt: skip

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config.pop("layer"))
        return cls(layer, **config)
