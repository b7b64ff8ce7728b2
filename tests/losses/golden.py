"""Our losses under the names of the golden cases, so that both can be compared.

`ADAPTERS` maps a method's name to a function of a case's arrays (tensors by name) and
hyper-parameters that returns the case's scalar loss, computed by our public classes.
"""

import keras
from keras import ops

from keras_distill import losses, metrics, projectors
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


def maps_of(arrays, side, count=None):
    """A side's feature maps, channels last: one, or `count` of them."""
    if count is not None:
        return [maps_of(arrays, f"{side}_{index}") for index in range(count)]
    return arrays[f"{side}_nhwc"] if f"{side}_nhwc" in arrays else arrays[side]


def layers_of(arrays, count):
    """The teacher's and the student's feature maps of each of `count` layers."""
    return zip(maps_of(arrays, "teacher", count), maps_of(arrays, "student", count))


def on_maps(loss, arrays):
    return mean(loss.call(maps_of(arrays, "teacher"), maps_of(arrays, "student")))


def on_layers(loss, arrays, hyper_parameters):
    count = hyper_parameters["n_layers"]
    return sum(mean(loss.call(*layer)) for layer in layers_of(arrays, count))


def with_weights(projector, weights, *inputs):
    """What a projector makes of its inputs with tensors in the place of its variables."""
    projector(*inputs)  # builds it
    with keras.StatelessScope(state_mapping=[*weights(projector)]):
        return projector(*inputs, training=True)


def convolutions(arrays, layers, names):
    return [(layer.kernel, arrays[f"{name}_hwio"]) for layer, name in zip(layers, names)]


def normalizations(arrays, layers, names):
    for layer, name in zip(layers, names):
        yield layer.gamma, arrays[f"{name}_gamma"]
        yield layer.beta, arrays[f"{name}_beta"]


@adapter
def hint_fitnet(arrays, hyper_parameters):
    return on_maps(losses.Hint(), arrays)


@adapter
def attention_transfer(arrays, hyper_parameters):
    loss = losses.AttentionTransfer(hyper_parameters["p"], variant="code")
    return on_layers(loss, arrays, hyper_parameters)


@adapter
def nst(arrays, hyper_parameters):
    return on_layers(losses.NeuronSelectivity(), arrays, hyper_parameters)


@adapter
def fsp(arrays, hyper_parameters):
    sides = (maps_of(arrays, side, hyper_parameters["n_maps"]) for side in ("teacher", "student"))
    return mean(losses.FlowOfSolutionProcedure(variant="code").call(*sides))


@adapter
def vid(arrays, hyper_parameters):
    teacher, student = (maps_of(arrays, side) for side in ("teacher", "student"))
    channels, hidden = arrays["w2_hwio"].shape[-1], arrays["w0_hwio"].shape[-1]
    projector = projectors.VariationalProjector(channels, hidden, size=teacher.shape[1:3])

    def weights(layer):
        yield layer.scale, arrays["log_scale"]
        yield from convolutions(arrays, layer.convolutions, ("w0", "w1", "w2"))

    loss = losses.VariationalInformation(variant="code", epsilon=hyper_parameters["eps"])
    return mean(loss.call(teacher, with_weights(projector, weights, student)))


@adapter
def ab(arrays, hyper_parameters):
    """With the authors' weights: 3/1000, and half for every layer before the last."""
    loss = losses.ActivationBoundary(hyper_parameters["margin"])
    count = hyper_parameters["n_layers"]
    values = [mean(loss.call(*layer)) for layer in layers_of(arrays, count)]
    return 3e-3 * sum(value * 2.0 ** (k - count + 1) for k, value in enumerate(values))


@adapter
def factor_transfer(arrays, hyper_parameters):
    p1, p2 = hyper_parameters["p1"], hyper_parameters["p2"]
    return on_maps(losses.FactorTransfer(p2, variant="code", channel_power=p1), arrays)


@adapter
def ft_mmrazor(arrays, hyper_parameters):
    return on_maps(losses.FactorTransfer(variant="code"), arrays)


@adapter
def reviewkd_hcl(arrays, hyper_parameters):
    sides = (maps_of(arrays, side, hyper_parameters["n_pairs"]) for side in ("teacher", "student"))
    return mean(losses.HierarchicalContext().call(*sides))


@adapter
def reviewkd_abf(arrays, hyper_parameters):
    fuse, teacher = bool(hyper_parameters["fuse"]), maps_of(arrays, "teacher")
    fusion = projectors.AttentionFusion(
        teacher.shape[-1],
        arrays["w_conv1_hwio"].shape[-1],
        size=hyper_parameters["out_shape"],
        fuse=fuse,
        epsilon=hyper_parameters["bn_eps"],
    )

    def weights(layer):
        yield from convolutions(arrays, (layer.reduce, layer.expand), ("w_conv1", "w_conv2"))
        yield from normalizations(arrays, (layer.reduced, layer.expanded), ("bn1", "bn2"))
        if fuse:
            yield from convolutions(arrays, [layer.attention], ["w_att"])
            yield layer.attention.bias, arrays["b_att"]

    inputs = [maps_of(arrays, side) for side in ("student", "residual")[: 1 + fuse]]
    out, _ = with_weights(fusion, weights, *inputs)
    return mean(losses.HierarchicalContext().call(teacher, out))


@adapter
def ofd_mdistiller(arrays, hyper_parameters):
    margin = ops.convert_to_numpy(arrays["margin"]).reshape(-1)  # an argument: no tensor
    return on_maps(losses.OverhaulMargin(margin), arrays)


@adapter
def ofd_clovaai(arrays, hyper_parameters):
    """A sum over the batch."""
    return ofd_mdistiller(arrays, hyper_parameters) * maps_of(arrays, "student").shape[0]


@adapter
def ofd_margin(arrays, hyper_parameters):
    normalization = arrays["bn_gamma"], arrays["bn_beta"]
    loss = losses.OverhaulMargin.from_normalization(normalization)
    return ops.sum(ops.convert_to_tensor(loss.margin, "float32"))


@adapter
def cat_kd(arrays, hyper_parameters):
    resolution, normalize = hyper_parameters["cam_resolution"], bool(hyper_parameters["normalize"])
    return on_maps(losses.ClassAttentionTransfer(resolution, normalize), arrays)


@adapter
def simkd(arrays, hyper_parameters):
    teacher, student = (maps_of(arrays, side) for side in ("teacher", "student"))
    projector = projectors.ReusedClassifierProjector(
        teacher.shape[-1],
        factor=hyper_parameters["factor"],
        size=teacher.shape[1:3],
        epsilon=hyper_parameters["bn_eps"],
    )

    def weights(layer):
        yield from convolutions(arrays, layer.convolutions, ("w0", "w1", "w2"))
        yield from normalizations(arrays, layer.normalizations, ("bn0", "bn1", "bn2"))

    return mean(losses.Hint(pool=True).call(teacher, with_weights(projector, weights, student)))


@adapter
def semckd_loss(arrays, hyper_parameters):
    """Each of the student's layers has targets of its own, of one size with it."""
    count, targets = hyper_parameters["n_student"], range(hyper_parameters["n_teacher"])
    total = 0.0
    for i in range(count):
        teacher, student = ([maps_of(arrays, f"{side}_{i}{j}") for j in targets]
                            for side in ("teacher", "student"))  # fmt: skip
        y_pred = [arrays["weight"][:, i : i + 1], *student]
        total = total + mean(losses.SemanticCalibration().call(teacher, y_pred))
    return total / count


@adapter
def mgd_loss(arrays, hyper_parameters):
    return hyper_parameters["alpha_mgd"] * on_maps(losses.MaskedGeneration(), arrays)


@adapter
def pkd_pearson(arrays, hyper_parameters):
    resize = "student" if hyper_parameters["resize_stu"] else "teacher"
    loss = losses.PearsonCorrelation(variant="code", resize=resize)
    return hyper_parameters["loss_weight"] * on_maps(loss, arrays)


@adapter
def distillkit_hidden(arrays, hyper_parameters):
    loss = {"mse": losses.Hint, "cosine": losses.Cosine}[hyper_parameters["kind"]]()
    count = len({name.split("_")[1] for name in arrays if name.startswith("student_")})
    values = [loss.call(*layer) for layer in layers_of(arrays, count)]
    return sum(mean(value, arrays["mask"]) for value in values) / count


# Relations


@adapter
def rkd(arrays, hyper_parameters):
    sides = arrays["teacher"], arrays["student"]
    distance = mean(losses.RelationalDistance(variant="code").call(*sides))
    angle = mean(losses.RelationalAngle(variant="code").call(*sides))
    return hyper_parameters["w_distance"] * distance + hyper_parameters["w_angle"] * angle


@adapter
def similarity_sp(arrays, hyper_parameters):
    loss = losses.SimilarityPreserving()
    layers = range(hyper_parameters["n_layers"])
    return sum(mean(loss.call(arrays[f"teacher_{i}"], arrays[f"student_{i}"])) for i in layers)


@adapter
def correlation_cc_repdistiller(arrays, hyper_parameters):
    loss = losses.CorrelationCongruence(variant="code")
    return mean(loss.call(arrays["teacher"], arrays["student"]))


@adapter
def cc_taylor_kdzoo(arrays, hyper_parameters):
    loss = losses.CorrelationCongruence(hyper_parameters["gamma"], hyper_parameters["p_order"])
    return mean(loss.call(arrays["teacher"], arrays["student"]))


@adapter
def pkt(arrays, hyper_parameters):
    loss = losses.ProbabilisticTransfer(variant="code", epsilon=hyper_parameters["eps"])
    return mean(loss.call(arrays["teacher"], arrays["student"]))


@adapter
def cka(arrays, hyper_parameters):
    return metrics.cka(arrays["student"], arrays["teacher"], hyper_parameters["kernel"])


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
    values = losses.Cosine().call(arrays["teacher"], arrays["student"])
    return mean(values, mask_of(arrays, hyper_parameters))


@adapter
def tb_pkd(arrays, hyper_parameters):
    return mean(losses.PatientKD().call(arrays["teacher"], arrays["student"]))


def two_layers(arrays, side):
    return [arrays[f"{side}_0"], arrays[f"{side}_1"]]


@adapter
def tb_fsp(arrays, hyper_parameters):
    teacher, student = two_layers(arrays, "teacher"), two_layers(arrays, "student")
    mask = mask_of(arrays, hyper_parameters)
    return mean(losses.SequenceFlow().call(teacher, student, mask))


@adapter
def tb_mmd(arrays, hyper_parameters):
    teacher, student = two_layers(arrays, "teacher"), two_layers(arrays, "student")
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
    cosine = losses.Cosine().call(arrays["teacher_hidden"], arrays["student_hidden"])
    total = weights["ce"] * masked_mean(divergence, chosen)
    total += weights["cos"] * masked_mean(cosine, mask)
    squares = squared_error(teacher, student) * student.shape[-1]  # summed over the vocabulary
    total += weights["mse"] * masked_mean(squares, chosen)
    total += weights["mlm"] * language_model(labels, student)
    return total + weights["clm"] * language_model(labels[:, 1:], student[:, :-1])


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
    loss = losses.PixelWise(hyper_parameters["temperature"], variant="code")
    return mean(loss.call(*maps(arrays)))


@adapter
def ifvd(arrays, hyper_parameters):
    loss = losses.IntraClassVariation(hyper_parameters["num_classes"])
    return mean(loss.call(*maps(arrays), labels=arrays["labels"]))


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
