"""A language model in two: its body, up to the hidden states, and its output head."""

import keras

from keras_distill.fused.head import Head

import tensorflow as tf  # isort: skip


class SplitModel:
    """The two parts of a model whose output is hidden states times embeddings.

    A plain object, which Keras neither tracks nor saves. Body and head share the model's layers.

    Args:
        model: a functional model, such as a KerasHub `CausalLM` or `Seq2SeqLM`, with one output:
            that of a `ReversibleEmbedding` called with `reverse=True`, or of a linear `Dense`.

    Attributes:
        body: a model from the same inputs to the hidden states, (batch, tokens, width).

    Raises:
        ValueError: where the output is made otherwise.
    """

    def __init__(self, model):
        self._layer, hidden = _last_step(model)
        self.body = keras.Model(model.input, hidden, name=f"{model.name}_body")
        if isinstance(getattr(model, "backbone", None), keras.Model):
            self.body.backbone = model.backbone  # so that taps find `backbone/...`

    def mask(self, hidden):
        """Keras's mask of the logits: a `Dense` layer hands it on, an embedding does not."""
        handed_on = isinstance(self._layer, keras.layers.Dense)
        return getattr(hidden, "_keras_mask", None) if handed_on else None

    def head(self, hidden):
        """The `Head` for hidden states that the body gave."""
        layer = self._layer
        dtype = getattr(layer, "reverse_dtype", None) or layer.compute_dtype
        hidden = tf.cast(hidden, dtype)
        if isinstance(layer, keras.layers.Dense):
            bias = layer.bias if layer.use_bias else None
            return Head(hidden, tf.transpose(layer.kernel), bias)
        tied = layer.tie_weights
        embeddings = layer.embeddings if tied else tf.transpose(layer.reverse_embeddings)
        return Head(hidden, embeddings, None, layer.logit_soft_cap)


def _last_step(model):
    """The layer that makes the logits, and the symbolic hidden states that it is given."""
    output = getattr(model, "output", None) if isinstance(model, keras.Model) else None
    history = getattr(output, "_keras_history", None)
    layer = None if history is None else history.operation
    if not _is_head(layer):
        raise ValueError(
            "A fused head needs a functional model whose one output is that of a "
            "`ReversibleEmbedding` (`reverse=True`) or of a linear `Dense`, as in a KerasHub "
            f"`CausalLM` or `Seq2SeqLM`. Received: {getattr(model, 'name', model)}, which ends in "
            f"{type(layer).__name__ if layer is not None else type(output).__name__}."
        )
    if layer.quantization_mode is not None:
        raise ValueError(
            f"A fused head reads embeddings as floats. Received: {model.name}, whose output layer "
            f"is quantized to {layer.quantization_mode}."
        )
    return layer, layer._inbound_nodes[history.node_index].input_tensors[0]


def _is_head(layer):
    if isinstance(layer, keras.layers.Dense):
        return layer.activation is keras.activations.linear
    return isinstance(layer, keras.layers.ReversibleEmbedding)
