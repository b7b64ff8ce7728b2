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


@adapter
def rkd(arrays, hyper_parameters):
    sides = arrays["teacher"], arrays["student"]
    distance = mean(losses.RelationalDistance(distinct=False).call(*sides))
    angle = mean(losses.RelationalAngle(distinct=False).call(*sides))
    return hyper_parameters["w_distance"] * distance + hyper_parameters["w_angle"] * angle


@adapter
def similarity_sp(arrays, hyper_parameters):
    loss = losses.SimilarityPreserving()
    layers = range(hyper_parameters["n_layers"])
    return sum(mean(loss.call(arrays[f"teacher_{i}"], arrays[f"student_{i}"])) for i in layers)


@adapter
def correlation_cc_repdistiller(arrays, hyper_parameters):
    loss = losses.CorrelationCongruence(neighbors=True)
    return mean(loss.call(arrays["teacher"], arrays["student"]))


@adapter
def cc_taylor_kdzoo(arrays, hyper_parameters):
    loss = losses.CorrelationCongruence(hyper_parameters["gamma"], hyper_parameters["p_order"])
    return mean(loss.call(arrays["teacher"], arrays["student"]))


@adapter
def pkt(arrays, hyper_parameters):
    loss = losses.ProbabilisticTransfer(reference=True, epsilon=hyper_parameters["eps"])
    return mean(loss.call(arrays["teacher"], arrays["student"]))


@adapter
def cka(arrays, hyper_parameters):
    return losses.cka(arrays["student"], arrays["teacher"], hyper_parameters["kernel"])


def contrastive(arrays, hyper_parameters):
    """The loss, built, and what the case presets of it."""
    loss = losses.ContrastiveRepresentation(
        hyper_parameters["n_data"],
        width=arrays["b_s"].shape[0],
        negatives=hyper_parameters["nce_k"],
        temperature=hyper_parameters["nce_t"],
        momentum=hyper_parameters["momentum"],
    )
    loss.build(arrays["student"].shape, {"feature": arrays["teacher"].shape})
    memory = loss.layer
    preset = [
        (memory.student.kernel, arrays["w_s_io"]),
        (memory.student.bias, arrays["b_s"]),
        (memory.teacher.kernel, arrays["w_t_io"]),
        (memory.teacher.bias, arrays["b_t"]),
        (memory.students, arrays["memory_s"]),
        (memory.teachers, arrays["memory_t"]),
    ]
    normalizers = memory.student_normalizer, memory.teacher_normalizer
    for variable, value in zip(normalizers, hyper_parameters["Z_preset"] or ()):
        preset.append((variable, ops.log(ops.cast(value, "float32"))))
    return loss, preset


@adapter
def crd(arrays, hyper_parameters):
    loss, preset = contrastive(arrays, hyper_parameters)
    teacher = {
        "feature": arrays["teacher"],
        "index": arrays["idx"],
        "negatives": arrays["contrast_idx"][:, 1:],
    }
    with keras.StatelessScope(state_mapping=preset):
        return mean(loss.call(teacher, arrays["student"]))


# Transformers


# Language models


# Dense prediction


def maps(arrays):
    return arrays["teacher_nhwc"], arrays["student_nhwc"]


@adapter
def cwd(arrays, hyper_parameters):
    over_positions = hyper_parameters["norm_type"] == "channel"
    kind = losses.ChannelWise if over_positions else losses.PixelWise
    loss = kind(hyper_parameters["temperature"], divergence=hyper_parameters["divergence"])
    return mean(loss.call(*maps(arrays)))


@adapter
def cwd_mmrazor(arrays, hyper_parameters):
    loss = losses.ChannelWise(hyper_parameters["tau"])
    return hyper_parameters["loss_weight"] * mean(loss.call(*maps(arrays)))


@adapter
def seg_pixelwise_kd(arrays, hyper_parameters):
    loss = losses.PixelWise(hyper_parameters["temperature"], reference=True)
    return mean(loss.call(*maps(arrays)))


@adapter
def ifvd(arrays, hyper_parameters):
    loss = losses.IntraClassVariation(hyper_parameters["num_classes"])
    return mean(loss.call(*maps(arrays), labels=arrays["labels"]))


# Peers and exits
