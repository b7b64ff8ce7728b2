"""Our losses under the names of the golden cases, so that both can be compared.

`ADAPTERS` maps a method's name to a function of a case's arrays (tensors by name) and
hyper-parameters that returns the case's scalar loss, computed by our public classes.
"""

import keras
from keras import ops

from keras_distill import losses

ADAPTERS = {}


def adapter(function):
    """Registers a function under its own name."""
    ADAPTERS[function.__name__] = function
    return function


def mean(values, weights=None):
    """The mean over examples or tokens, as a term takes it."""
    if weights is None:
        return ops.mean(values)
    weights = ops.broadcast_to(ops.cast(weights, values.dtype), ops.shape(values))
    return ops.sum(values * weights) / ops.sum(weights)


def cross_entropy(labels, logits):
    """Keras's, averaged over all examples or tokens."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return loss(labels, logits)


# Response


@adapter
def kd_repdistiller(arrays, hyper_parameters):
    loss = losses.KLDivergence(hyper_parameters["temperature"])
    return mean(loss.call(arrays["teacher"], arrays["student"]))


# Features


# Relations


# Transformers


def squared_error(teacher, student):
    """Keras's, averaged over the width: a term takes it by the name "mse"."""
    return keras.losses.MeanSquaredError().call(teacher, student)


def by_length(mask):
    """Weights of tokens by which a mean over tokens of means over tokens is one over pairs."""
    mask = ops.cast(mask, "float32")
    return mask * ops.sum(mask, axis=-1, keepdims=True)


def scores_of(loss, arrays, mask, weights):
    return mean(loss.call(arrays["teacher"], arrays["student"], mask), weights)


def attention_mse(arrays, hyper_parameters, heads=None):
    """TextBrewer clips scores only where it has no mask, and averages over pairs of tokens."""
    if not hyper_parameters["masked"]:
        return scores_of(losses.AttentionMSE(heads, threshold=-1e-3), arrays, None, None)
    mask = arrays["mask"]
    return scores_of(losses.AttentionMSE(heads, threshold=None), arrays, mask, by_length(mask))


def attention_cross_entropy(arrays, hyper_parameters, heads=None):
    if not hyper_parameters["masked"]:
        return scores_of(losses.AttentionCrossEntropy(heads, threshold=-1e-3), arrays, None, None)
    mask = arrays["mask"]
    return scores_of(losses.AttentionCrossEntropy(heads), arrays, mask, mask)


@adapter
def tb_att_mse(arrays, hyper_parameters):
    return attention_mse(arrays, hyper_parameters)


@adapter
def tb_att_mse_sum(arrays, hyper_parameters):
    return attention_mse(arrays, hyper_parameters, heads="sum")


@adapter
def tb_att_ce(arrays, hyper_parameters):
    return attention_cross_entropy(arrays, hyper_parameters)


@adapter
def tb_att_ce_mean(arrays, hyper_parameters):
    return attention_cross_entropy(arrays, hyper_parameters, heads="mean")


def mask_of(arrays, hyper_parameters):
    return arrays["mask"] if hyper_parameters["masked"] else None


@adapter
def tb_hid_mse(arrays, hyper_parameters):
    values = squared_error(arrays["teacher"], arrays["student"])
    return mean(values, mask_of(arrays, hyper_parameters))


@adapter
def tb_cos(arrays, hyper_parameters):
    values = losses.TokenCosine().call(arrays["teacher"], arrays["student"])
    return mean(values, mask_of(arrays, hyper_parameters))


@adapter
def tb_pkd(arrays, hyper_parameters):
    return mean(losses.PatientKD().call(arrays["teacher"], arrays["student"]))


def layers_of(arrays, side):
    return [arrays[f"{side}_0"], arrays[f"{side}_1"]]


@adapter
def tb_fsp(arrays, hyper_parameters):
    teacher, student = layers_of(arrays, "teacher"), layers_of(arrays, "student")
    mask = mask_of(arrays, hyper_parameters)
    return mean(losses.SequenceFlow().call(teacher, student, mask))


@adapter
def tb_mmd(arrays, hyper_parameters):
    teacher, student = layers_of(arrays, "teacher"), layers_of(arrays, "student")
    mask = mask_of(arrays, hyper_parameters)
    values = losses.TokenGram().call(teacher, student, mask)
    return mean(values, None if mask is None else by_length(mask))


def minilm(arrays, hyper_parameters):
    inputs = {1: "query", 2: "key", 3: "value"}
    relations = [(inputs[m], inputs[n], w) for m, n, w in hyper_parameters["relations"]]
    loss = losses.MiniLMRelations(relations, hyper_parameters["relation_heads"])
    used = {name for one, other, _ in relations for name in (one, other)}
    teacher, student = (
        {name: arrays[f"{side}_{name[0]}"] for name in sorted(used)}
        for side in ("teacher", "student")
    )
    return mean(loss.call(teacher, student, arrays.get("mask")))


@adapter
def minilm_v1(arrays, hyper_parameters):
    return minilm(arrays, hyper_parameters)


@adapter
def minilm_v2(arrays, hyper_parameters):
    return minilm(arrays, hyper_parameters)


def layer_by_layer(loss, arrays, hyper_parameters, name, first, offset):
    """The sum over the student's layers, each beside the last teacher's layer of its share."""
    layers = hyper_parameters["student_layers"]
    share = hyper_parameters["teacher_layers"] // layers
    return sum(
        mean(loss(arrays[f"teacher_{name}{i * share + offset * (share - 1)}"],
                  arrays[f"student_{name}{i}"]))
        for i in range(layers + first)
    )  # fmt: skip


@adapter
def tinybert_attention(arrays, hyper_parameters):
    loss = losses.AttentionMSE().call
    return layer_by_layer(loss, arrays, hyper_parameters, "att", first=0, offset=1)


@adapter
def tinybert_hidden(arrays, hyper_parameters):
    return layer_by_layer(squared_error, arrays, hyper_parameters, "hid", first=1, offset=0)


def masked_mean(values, weights):
    """The mean, 0 where nothing is selected."""
    weights = ops.cast(weights, values.dtype)
    return ops.sum(ops.where(weights > 0, values, 0.0)) / ops.maximum(ops.sum(weights), 1.0)


def language_model(labels, logits):
    """Cross-entropy of the tokens that have a label."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return masked_mean(loss.call(ops.maximum(labels, 0), logits), labels != -100)


@adapter
def distilbert(arrays, hyper_parameters):
    weights = {name: hyper_parameters.get(f"alpha_{name}", 0.0)
               for name in ("ce", "mlm", "clm", "mse", "cos")}  # fmt: skip
    teacher, student = arrays["teacher"], arrays["student"]
    labels, mask = arrays["labels"], arrays["mask"]
    chosen = labels > -1 if hyper_parameters.get("restrict_ce_to_mask") else mask
    divergence = losses.KLDivergence(hyper_parameters["temperature"]).call(teacher, student)
    cosine = losses.TokenCosine().call(arrays["teacher_hidden"], arrays["student_hidden"])
    total = weights["ce"] * masked_mean(divergence, chosen)
    total += weights["cos"] * masked_mean(cosine, mask)
    squares = squared_error(teacher, student) * student.shape[-1]  # summed over the vocabulary
    total += weights["mse"] * masked_mean(squares, chosen)
    total += weights["mlm"] * language_model(labels, student)
    return total + weights["clm"] * language_model(labels[:, 1:], student[:, :-1])


# Language models


# Dense prediction


# Peers and exits
