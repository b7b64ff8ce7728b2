"""The base of layers with fake-quantized kernels."""

from keras import ops

from keras_distill.quantized_layers.rounding import (
    FUSED,
    activation_name,
    fake_quantized,
    in_fixed_range,
    rounded_silu,
)


class Quantized:
    """The base of fake-quantized layers, each of which is a Keras layer too.

    `before` and `after` are the `ActivationRange`s of input and output if the layer stands inside
    of another one. In a graph they are layers of their own.

    Args:
        bits: 8 or 4, the bits of the kernel, or `None` for a kernel that is not quantized.
    """

    least_bits = 4  # the fewest bits in LiteRT's quantizer for this kind of layer
    multiplies = True
    before = after = None

    @classmethod
    def settings(cls, bits, activations):
        """Returns the constructor's arguments for these bits of weights and activations."""
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
        """Returns the product with the rounded kernel, plus the bias."""
        raise NotImplementedError

    def rounded(self):
        """Returns the rounded kernel, in the shape of the variable."""
        return fake_quantized(self.kernel, self.bits)

    def get_config(self):
        return {**super().get_config(), "bits": self.bits}


def with_bias(outputs, bias):
    """Adds the bias to outputs, unless it is `None`."""
    return outputs if bias is None else ops.add(outputs, bias)
