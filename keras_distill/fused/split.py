"""Splits a language model into its body, up to the hidden states, and its output head."""

import keras
from keras import ops

from keras_distill._keras import graph, layers
from keras_distill.fused.head import Head


class SplitModel:
    """The two parts of a model whose output is hidden states times embeddings.

    It is a plain object, which Keras neither tracks nor saves. Body and head share the model's
    layers.

    Args:
        model: a functional model, such as a KerasHub `CausalLM` or `Seq2SeqLM`, with one output:
            that of a `ReversibleEmbedding` called with `reverse=True`, or of a linear `Dense`.

    Attributes:
        body: a model from the same inputs to the hidden states, (batch, tokens, width).

    Raises:
        ValueError: if the output is not made in this way.
    """

    def __init__(self, model):
        self._layer, hidden = _last_step(model)
        self.body = keras.Model(model.input, hidden, name=f"{model.name}_body")
        if isinstance(getattr(model, "backbone", None), keras.Model):
            self.body.backbone = model.backbone  # so that taps find `backbone/...`

    def mask(self, hidden):
        """Returns Keras's mask of the logits, which a `Dense` layer passes on by itself."""
        handed_on = isinstance(self._layer, keras.layers.Dense)
        return layers.mask_of(hidden) if handed_on else None

    def head(self, hidden):
        """Returns the `Head` for hidden states from the body."""
        if isinstance(self._layer, keras.layers.Dense):
            return _dense(self._layer, hidden)
        return _reversible(self._layer, hidden)


def _dense(layer, hidden):
    hidden = ops.cast(hidden, layer.compute_dtype)
    return Head(hidden, ops.transpose(layer.kernel), layer.bias if layer.use_bias else None)


def _reversible(layer, hidden):
    hidden = ops.cast(hidden, layer.reverse_dtype or layer.compute_dtype)
    tied = layer.tie_weights
    embeddings = layer.embeddings if tied else ops.transpose(layer.reverse_embeddings)
    return Head(hidden, embeddings, None, layer.logit_soft_cap)


def _last_step(model):
    """Returns the layer that makes the logits, and its symbolic hidden states."""
    output = graph.outputs(model) if isinstance(model, keras.Model) else None
    last = graph.producer(output) if isinstance(output, keras.KerasTensor) else None
    tokens = _chosen_tokens(last) if last is not None else None
    if tokens is not None:
        last = graph.producer(last.input_tensors[0])
    if last is None or not _makes_logits(last):
        made = type(output).__name__ if last is None else type(last.operation).__name__
        raise ValueError(
            "A fused head needs a functional model with one output that a `ReversibleEmbedding` "
            "(`reverse=True`) or a linear `Dense` layer computes, as in a KerasHub `CausalLM` or "
            f"`Seq2SeqLM`. Received: {getattr(model, 'name', model)}, which ends in {made}"
        )
    layer = last.operation
    if layer.quantization_mode is not None:
        raise ValueError(
            f"A fused head needs embeddings in floats. Received: {model.name}, whose output layer "
            f"is quantized to {layer.quantization_mode}"
        )
    hidden = last.input_tensors[0]
    return layer, hidden if tokens is None else hidden[tokens]


def _chosen_tokens(node):
    """Returns the key `[:, tokens, :]` of a call that leaves out tokens, such as an image's."""
    key = node.arguments.args[1] if type(node.operation).__name__ == "GetItem" else None
    whole = isinstance(key, tuple) and len(key) == 3 and all(isinstance(k, slice) for k in key)
    return key if whole and key[0] == key[2] == slice(None) else None


def _makes_logits(node):
    """Returns whether a node calls a linear `Dense`, or an embedding in reverse.

    The call tells a `ReversibleEmbedding`, since both Keras (from 3.13) and KerasHub have one.
    """
    layer = node.operation
    if isinstance(layer, keras.layers.Dense):
        return layer.activation is keras.activations.linear
    reverse = node.arguments.kwargs.get("reverse", False)
    return isinstance(layer, keras.layers.Embedding) and reverse
