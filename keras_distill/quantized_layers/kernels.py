"""What layers share whose kernels are read fake-quantized."""

from keras import ops

from keras_distill.quantized_layers.rounding import (
    FUSED,
    activation_name,
    fake_quantized,
    in_fixed_range,
    rounded_silu,
)


class Quantized:
    """What fake-quantized layers share, beside the Keras layer that each of them is.

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
        """Returns the kernel as it computes, in the shape in which it is kept."""
        return fake_quantized(self.kernel, self.bits)

    def get_config(self):
        return {**super().get_config(), "bits": self.bits}


def with_bias(outputs, bias):
    """Outputs with what is added to them, which may be `None`."""
    return outputs if bias is None else ops.add(outputs, bias)
