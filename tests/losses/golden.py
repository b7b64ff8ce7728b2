"""Our losses under the names of the golden cases, so that both can be compared.

`ADAPTERS` maps a method's name to a function of a case's arrays (tensors by name) and
hyper-parameters that returns the case's scalar loss, computed by our public classes.
"""

import keras
from keras import ops

from keras_distill import losses
from keras_distill.batch import TopK

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


@adapter
def kd_mdistiller(arrays, hyper_parameters):
    return kd_repdistiller(arrays, hyper_parameters)


@adapter
def dkd(arrays, hyper_parameters):
    loss = losses.DecoupledKD(**hyper_parameters)
    return mean(loss.call(arrays["teacher"], arrays["student"], labels=arrays["labels"]))


def channels_last(arrays, name):
    """A tensor of maps with the classes last, whichever rank it has."""
    return arrays[f"{name}_nhwc"] if f"{name}_nhwc" in arrays else arrays[name]


@adapter
def dist(arrays, hyper_parameters):
    loss = losses.DIST(hyper_parameters["beta"], hyper_parameters["gamma"])
    return mean(loss.call(channels_last(arrays, "teacher"), channels_last(arrays, "student")))


@adapter
def dist_mmrazor(arrays, hyper_parameters):
    loss = losses.DIST(
        hyper_parameters["inter_loss_weight"],
        hyper_parameters["intra_loss_weight"],
        temperature=hyper_parameters["tau"],
    )
    values = loss.call(channels_last(arrays, "teacher"), channels_last(arrays, "student"))
    return hyper_parameters["loss_weight"] * mean(values)


@adapter
def logit_std_kd(arrays, hyper_parameters):
    loss = losses.Standardized(losses.KLDivergence(hyper_parameters["temperature"]))
    return mean(loss.call(arrays["teacher"], arrays["student"]))


@adapter
def logit_std_dkd(arrays, hyper_parameters):
    loss = losses.Standardized(losses.DecoupledKD(**hyper_parameters))
    return mean(loss.call(arrays["teacher"], arrays["student"], labels=arrays["labels"]))


def at_level(arrays, hyper_parameters, level):
    weights = {name: float(name == level) for name in ("instance", "batch", "classes")}
    loss = losses.MultiLevelLogits(hyper_parameters["temperatures"], **weights)
    return mean(loss.call(arrays["teacher"], arrays["student"]))


@adapter
def mlld_instance(arrays, hyper_parameters):
    return at_level(arrays, hyper_parameters, "instance")


@adapter
def mlld_class(arrays, hyper_parameters):
    return at_level(arrays, hyper_parameters, "classes")


@adapter
def mlld_batch(arrays, hyper_parameters):
    return at_level(arrays, hyper_parameters, "batch")


@adapter
def wsld(arrays, hyper_parameters):
    loss = losses.WeightedSoftLabels(hyper_parameters["tau"])
    values = loss.call(arrays["teacher"], arrays["student"], labels=arrays["labels"])
    return hyper_parameters["loss_weight"] * mean(values)


@adapter
def logits_mse(arrays, hyper_parameters):
    return mean(losses.LogitsMSE().call(arrays["teacher"], arrays["student"]))


def at_temperature(arrays, hyper_parameters):
    """Both sides' logits and the temperature that is left: one an example is divided out here."""
    teacher, student = arrays["teacher"], arrays["student"]
    if "temperature" not in arrays:
        return teacher, student, hyper_parameters["temperature"]
    size = [-1] + [1] * (len(student.shape) - 1)
    temperature = ops.reshape(arrays["temperature"], size)
    return teacher / temperature, student / temperature, 1.0


@adapter
def tb_kd_mse(arrays, hyper_parameters):
    teacher, student, temperature = at_temperature(arrays, hyper_parameters)
    return mean(losses.LogitsMSE(temperature).call(teacher, student))


@adapter
def tb_kd_ce(arrays, hyper_parameters):
    teacher, student, temperature = at_temperature(arrays, hyper_parameters)
    loss = losses.SoftCrossEntropy(temperature, compensate=False)
    return mean(loss.call(teacher, student))


# Features


# Relations


# Transformers


@adapter
def tinybert_soft_ce(arrays, hyper_parameters):
    loss = losses.SoftCrossEntropy(hyper_parameters["temperature"], compensate=False)
    values = loss.call(arrays["teacher"], arrays["student"])
    return mean(values) / arrays["student"].shape[-1]


# Language models


def labelled(arrays, ignored=-100):
    """1 where a token has a label."""
    return ops.cast(ops.not_equal(arrays["labels"], ignored), "float32")


@adapter
def gkd_jsd(arrays, hyper_parameters):
    teacher, student = arrays["teacher"], arrays["student"]
    beta, temperature = hyper_parameters["beta"], hyper_parameters["temperature"]
    values = losses.JensenShannon(beta, temperature, compensate=False).call(teacher, student)
    known = hyper_parameters.get("has_labels", True) and "labels" in arrays
    kept = labelled(arrays) if known else ops.ones_like(values)
    total, count = ops.sum(values * kept), ops.maximum(ops.sum(kept), 1.0)
    if hyper_parameters.get("num_items_in_batch") is not None:
        return total / hyper_parameters["num_items_in_batch"]
    reduction = hyper_parameters.get("reduction", "batchmean")
    if reduction == "sum":
        return total
    if reduction == "mean":
        return total / count / student.shape[-1]
    return total / (count if known else student.shape[0])


@adapter
def minillm_reverse_kl(arrays, hyper_parameters):
    values = losses.ReverseKL().call(arrays["teacher"], arrays["student"])
    return mean(values, arrays["mask"])


def of_tokens(loss, arrays, entropy=0.0):
    """The mean over labelled tokens, and a part of the teacher's entropy, as DistiLLM has it."""
    values = loss.call(arrays["teacher"], arrays["student"])
    if entropy:
        own = losses.SoftCrossEntropy().call(arrays["teacher"], arrays["teacher"])
        values = values + entropy * own
    return mean(values, labelled(arrays))


@adapter
def distillm_forward_kl(arrays, hyper_parameters):
    return of_tokens(losses.SoftCrossEntropy(), arrays)


@adapter
def distillm_reverse_kl(arrays, hyper_parameters):
    return of_tokens(losses.ReverseKL(), arrays)


@adapter
def distillm_symmetric_kl(arrays, hyper_parameters):
    weight = hyper_parameters["lam"]
    return of_tokens(losses.SymmetricKL(weight), arrays, entropy=1 - weight)


@adapter
def distillm_js(arrays, hyper_parameters):
    return of_tokens(losses.JensenShannon(1 - hyper_parameters["lam"]), arrays)


@adapter
def distillm_tv(arrays, hyper_parameters):
    return of_tokens(losses.TotalVariation(), arrays)


@adapter
def distillm_skew_forward(arrays, hyper_parameters):
    return of_tokens(losses.SkewedKL(hyper_parameters["lam"]), arrays, entropy=1.0)


@adapter
def distillm_skew_reverse(arrays, hyper_parameters):
    return of_tokens(losses.SkewedReverseKL(hyper_parameters["lam"]), arrays)


def liger_logits(arrays, side):
    logits = arrays[f"{side}_input"] @ arrays[f"{side}_weight_io"]
    return logits + arrays[f"{side}_bias"] if f"{side}_bias" in arrays else logits


def liger(arrays, hyper_parameters, soft):
    """Hard and soft parts, divided by the labelled rows; the teacher's extra classes meet zeros."""
    teacher, student = liger_logits(arrays, "teacher"), liger_logits(arrays, "student")
    kept = labelled(arrays, hyper_parameters["ignore_index"])
    labels = ops.where(kept > 0, arrays["labels"], 0)
    hard = keras.losses.sparse_categorical_crossentropy(labels, student, from_logits=True)
    more = teacher.shape[-1] - student.shape[-1]
    if more > 0:
        student = ops.pad(student, [[0, 0]] * (len(student.shape) - 1) + [[0, more]])
    total = hyper_parameters["weight_hard_loss"] * ops.sum(hard * kept)
    total += hyper_parameters["weight_soft_loss"] * soft(teacher, student, kept)
    return total / ops.maximum(ops.sum(kept), 1.0)


@adapter
def liger_fused_jsd(arrays, hyper_parameters):
    beta, temperature = hyper_parameters["beta"], hyper_parameters["temperature"]
    loss = losses.JensenShannon(beta, temperature, compensate=False)
    return liger(arrays, hyper_parameters, lambda t, s, kept: ops.sum(kept * loss.call(t, s)))


@adapter
def liger_fused_cosine(arrays, hyper_parameters):
    cosine = keras.losses.CosineSimilarity(reduction="sum")

    def soft(teacher, student, kept):  # every row counts, labelled or not
        rows = ops.size(kept)
        return hyper_parameters["beta"] * (ops.cast(rows, "float32") + cosine(teacher, student))

    return liger(arrays, hyper_parameters, soft)


def sparse_target(arrays, hyper_parameters):
    """DistillKit's values as a `TopK`: without the rest, or with it as one class."""
    temperature = hyper_parameters["temperature"]
    scale = hyper_parameters["target_generation_temperature"] / temperature
    values, missing = arrays["values"], hyper_parameters["missing"]
    log_probs, nothing = scale * values, ops.full_like(values[..., 0], -float("inf"))
    if missing == "zero" or not hyper_parameters["log_target"]:
        log_probs = ops.log_softmax(log_probs, axis=-1)
        return TopK(arrays["ids"], log_probs, nothing, temperature)
    rest = ops.clip(1 - ops.sum(ops.exp(values), axis=-1), 1e-8, 1 - 1e-8)
    tail = scale * ops.log(rest)
    if scale != 1:
        every = ops.concatenate([log_probs, ops.expand_dims(tail, -1)], axis=-1)
        total = ops.logsumexp(every, axis=-1)
        log_probs, tail = log_probs - ops.expand_dims(total, -1), tail - total
    return TopK(arrays["ids"], log_probs, tail, temperature)


def sparse(kind, arrays, hyper_parameters):
    reduced = hyper_parameters["class_reduction"]
    loss = kind(temperature=hyper_parameters["temperature"], compensate=reduced)
    values = loss.call(sparse_target(arrays, hyper_parameters), arrays["student"])
    mask = arrays["mask"] if "mask" in arrays else ops.ones_like(values)
    return mean(values, mask) if reduced else ops.sum(values * mask)


@adapter
def distillkit_sparse_kl(arrays, hyper_parameters):
    return sparse(losses.KLDivergence, arrays, hyper_parameters)


@adapter
def distillkit_sparse_jsd(arrays, hyper_parameters):
    return sparse(losses.JensenShannon, arrays, hyper_parameters)


@adapter
def distillkit_sparse_tvd(arrays, hyper_parameters):
    return sparse(losses.TotalVariation, arrays, hyper_parameters)


@adapter
def distillkit_dense_kl(arrays, hyper_parameters):
    loss = losses.KLDivergence(hyper_parameters["temperature"])
    return mean(loss.call(arrays["teacher"], arrays["student"]), arrays.get("mask"))


def ranked(loss, arrays):
    target = TopK(arrays["ids"], arrays["values"], ops.zeros_like(arrays["values"][..., 0]))
    mask = arrays.get("mask")
    return mean(loss.call(target, arrays["student"], mask=mask), mask)


@adapter
def distillkit_logistic_ranking(arrays, hyper_parameters):
    return ranked(losses.LogisticRanking(), arrays)


@adapter
def distillkit_hinge(arrays, hyper_parameters):
    return ranked(losses.HingeRanking(hyper_parameters.get("margin")), arrays)


# Dense prediction


# Peers and exits


def peers_of(arrays):
    return [arrays[name] for name in sorted(arrays) if name.startswith("peer")]


@adapter
def dml(arrays, hyper_parameters):
    loss = losses.KLDivergence(hyper_parameters.get("temperature", 1.0))
    parts = [mean(loss.call(peer, arrays["student"])) for peer in peers_of(arrays)]
    return cross_entropy(arrays["labels"], arrays["student"]) + sum(parts) / len(parts)


@adapter
def byot(arrays, hyper_parameters):
    alpha, beta = hyper_parameters["alpha"], hyper_parameters["beta"]
    soft = losses.SoftCrossEntropy(hyper_parameters["temperature"])
    squared = keras.losses.MeanSquaredError(reduction="sum")
    deepest, hint = ops.stop_gradient(arrays["z4"]), arrays["f4"]
    total = (1 - alpha) * cross_entropy(arrays["labels"], arrays["z4"])
    for exit in ("1", "2", "3"):
        logits, features = arrays[f"z{exit}"], arrays[f"f{exit}"]
        total += (1 - alpha) * cross_entropy(arrays["labels"], logits)
        total += alpha * mean(soft.call(deepest, logits))
        active = ops.cast((features > 0) | (hint > 0), features.dtype)
        total += beta * hint.shape[-1] * squared(hint * active, features * active)
    return total


@adapter
def kdcl_mean(arrays, hyper_parameters):
    loss = losses.CollaborativeKL("mean", hyper_parameters["temperature"])
    peers = [ops.stop_gradient(arrays["student"]), *peers_of(arrays)]
    alpha, values = hyper_parameters["alpha"], loss.call(peers, arrays["student"])
    hard = cross_entropy(arrays["labels"], arrays["student"])
    return (1 - alpha) * hard + alpha * mean(values)


@adapter
def one_kl(arrays, hyper_parameters):
    """The target has 1e-7 more in each class than a distribution: every class as a `TopK`."""
    temperature = hyper_parameters.get("temperature", 3.0)
    log_probs = ops.log(ops.softmax(arrays["teacher"] / temperature, axis=-1) + 1e-7)
    ids = ops.broadcast_to(ops.arange(log_probs.shape[-1]), ops.shape(log_probs))
    nothing = ops.full_like(log_probs[..., 0], -float("inf"))
    target = TopK(ids, log_probs, nothing, temperature)
    return mean(losses.KLDivergence(temperature).call(target, arrays["student"]))
