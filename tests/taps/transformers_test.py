"""Hidden states, normalized representations and attention of every kind of transformer."""

import importlib.metadata
import warnings

import keras
import numpy as np
import pytest
from keras import ops
from kinds import arrays

from keras_distill import losses, taps

hub = pytest.importorskip("keras_hub").models
SIZES = {
    "vocabulary_size": 20,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 8,
}
DECODER = {
    **{key: value for key, value in SIZES.items() if key != "num_heads"},
    "num_query_heads": 2,
    "num_key_value_heads": 1,
}
SHORT = {"max_sequence_length": 8}
OLD = importlib.metadata.version("keras-hub").startswith("0.25.")
VIT_BLOCK = "tranformer_block_2" if OLD else "transformer_block_2"  # 0.25 spells it so
IMAGES = {"image_shape": (8, 8, 3), "patch_size": 4, "mlp_dim": 8}
ENCODER = {"attention": "self_attention_layer", "norm": "self_attention_layer_norm"}


class Kind:
    """How a kind of backbone is made, where its parts are, and what follows its last block."""

    def __init__(self, make, block, attention, norm, end=lambda model, hidden: hidden):
        self.make, self.block, self.end = make, block, end
        self.attention, self.norm = f"{block}/{attention}", f"{block}/{norm}"


LAST = "transformer_layer_1"
KINDS = {
    "bert": Kind(lambda: hub.BertBackbone(**SIZES, **SHORT), LAST, **ENCODER),
    "distil_bert": Kind(lambda: hub.DistilBertBackbone(**SIZES, **SHORT), LAST, **ENCODER),
    "roberta": Kind(lambda: hub.RobertaBackbone(**SIZES, **SHORT), LAST, **ENCODER),
    "albert": Kind(
        lambda: hub.AlbertBackbone(**SIZES, **SHORT, embedding_dim=4, num_groups=2),
        "group_1_inner_layer_0",
        **ENCODER,
    ),
    "gpt2": Kind(
        lambda: hub.GPT2Backbone(**SIZES, **SHORT), LAST, "self_attention",
        "self_attention_layer_norm", lambda model, hidden: model.layer_norm(hidden),
    ),
    "llama": Kind(
        lambda: hub.LlamaBackbone(**DECODER), LAST, "self_attention",
        "self_attention_layernorm", lambda model, hidden: model.layer_norm(hidden),
    ),
    "gemma": Kind(
        lambda: hub.GemmaBackbone(**DECODER, head_dim=4), "decoder_block_1", "attention",
        "pre_attention_norm", lambda model, hidden: model.layer_norm(hidden),
    ),
    "bart_encoder": Kind(
        lambda: hub.BartBackbone(**SIZES, **SHORT), "transformer_encoder_layer_1", **ENCODER
    ),
    "bart_decoder": Kind(
        lambda: hub.BartBackbone(**SIZES, **SHORT), "transformer_decoder_layer_1",
        "self_attention", "self_attention_layer_norm",
    ),
    "bart_cross": Kind(
        lambda: hub.BartBackbone(**SIZES, **SHORT), "transformer_decoder_layer_1",
        "cross_attention", "cross_attention_layer_norm",
    ),
    "vit": Kind(
        lambda: hub.ViTBackbone(num_layers=2, num_heads=2, hidden_dim=8, **IMAGES),
        f"vit_encoder/{VIT_BLOCK}", "mha", "ln_1",
        lambda model, hidden: taps.find_layer(model, "vit_encoder/ln")(hidden),
    ),
}  # fmt: skip


def inputs(model):
    """Two examples; of texts the second is padded."""
    random = np.random.default_rng(0)
    if not isinstance(model.input, dict):
        return random.normal(size=(2, 8, 8, 3)).astype("float32")
    found = {name: np.zeros((2, 5), "int32") for name in model.input}
    for name in found:
        if name.endswith("token_ids"):
            found[name] = random.integers(0, 20, (2, 5)).astype("int32")
        if name.endswith("padding_mask"):
            found[name] = np.array([[1] * 5, [1, 1, 1, 0, 0]])
    return found


def made(make):
    """A backbone with attention that is not even, as that of a new one nearly is."""
    with warnings.catch_warnings():  # T5 drops masks while it is built
        warnings.simplefilter("ignore")
        model = make()
    random = np.random.default_rng(1)
    for weight in model.weights:
        if "query" in weight.path or "key" in weight.path:
            weight.assign(random.normal(size=weight.shape))
    return model


@pytest.mark.parametrize("name", KINDS)
def test_hidden_states_and_attention(name):
    kind = KINDS[name]
    model = made(kind.make)
    x, projections = inputs(model), taps.attention(kind.attention)
    scores = f"{kind.attention}:scores"
    paths = ["output", kind.block, kind.norm, kind.attention, scores, *projections.values()]
    found = arrays(taps.run(model, x, paths))
    output = found["output"]
    if isinstance(output, dict):
        side = "encoder_" if "encoder" in kind.block else "decoder_" if "bart" in name else ""
        output = output[f"{side}sequence_output"]
    np.testing.assert_allclose(arrays(kind.end(model, found[kind.block])), output, atol=1e-5)
    square = np.mean(np.square(found[kind.norm]), -1)
    np.testing.assert_allclose(square, np.ones_like(square), atol=0.1)
    assert found[projections["query"]].shape[2:] == (2, 4)
    layer = taps.find_layer(model, kind.attention)
    by_hand = attended(layer, found[scores], found[projections["value"]])
    np.testing.assert_allclose(arrays(by_hand), found[kind.attention], atol=1e-5)
    relations = losses.MiniLMRelations(relation_heads=2)
    values = {key: found[path] for key, path in projections.items()}
    assert abs(float(relations(values, values))) < 1e-6
    assert float(relations(values, {**values, "query": values["query"][:, ::-1]})) > 1e-6


def attended(layer, scores, values):
    """What an attention layer returns, made of its scores and values by hand."""
    values = np.repeat(values, scores.shape[1] // values.shape[2], axis=2)
    mixed = np.einsum("bhqk,bkhd->bqhd", arrays(ops.softmax(scores)), values)
    return taps.find_layer(layer, "attention_output")(mixed)


def test_a_block_that_is_shared_counts_by_its_last_turn():
    model = hub.AlbertBackbone(**SIZES, **SHORT, embedding_dim=4)  # one group, used twice
    x = inputs(model)
    with pytest.warns(UserWarning, match="group_0_inner_layer_0.*2 times"):
        found = arrays(taps.run(model, x, ["output:sequence_output", "group_0_inner_layer_0"]))
    np.testing.assert_array_equal(found["group_0_inner_layer_0"], found["output:sequence_output"])


def test_scores_that_are_changed_are_refused():
    model = hub.GemmaBackbone(**DECODER, head_dim=4, attention_logit_soft_cap=50)
    with pytest.raises(ValueError, match="logit_soft_cap changes them before"):
        taps.find_layer(model, "decoder_block_1/attention:scores")


T5 = "transformer_decoder_layer_1"


@pytest.mark.parametrize("attention", ["self_attention", "cross_attention"])
def test_t5_has_an_attention_of_its_own(attention):
    model = made(lambda: hub.T5Backbone(**SIZES))
    path = f"{T5}/{attention}"
    projections = taps.attention(path, ("query_projector", "key_projector", "value_projector"))
    asked = [f"{T5}:0", f"{path}:0", f"{path}:1", *projections.values()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = arrays(taps.run(model, inputs(model), ["output:decoder_sequence_output", *asked]))
    norm = model.get_layer("decoder_output_layer_norm")
    np.testing.assert_allclose(
        arrays(norm(found[f"{T5}:0"])), found["output:decoder_sequence_output"], atol=1e-5
    )
    query, key, value = (np.reshape(found[p], (2, 5, 2, 4)) for p in projections.values())
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) + found[f"{path}:1"]  # bias and mask
    mixed = np.einsum("bhqk,bkhd->bqhd", arrays(ops.softmax(scores)), value).reshape(2, 5, 8)
    output = taps.find_layer(model, f"{path}/output_projector")(mixed)
    np.testing.assert_allclose(arrays(output), found[f"{path}:0"], atol=1e-5)
    relations = losses.MiniLMRelations([(name, name) for name in projections], relation_heads=2)
    values = {name: found[p] for name, p in projections.items()}
    assert abs(float(relations(values, values))) < 1e-6
    with pytest.raises(ValueError, match="Received: a `T5MultiHeadAttention`"):
        taps.run(model, inputs(model), [f"{path}:scores"])
    with pytest.raises(ValueError, match=f"`{T5}:2`: the layer has no `2`. It has: 0, 1"):
        taps.run(model, inputs(model), [f"{T5}:2"])


def test_a_layer_of_one_value_has_no_parts():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")])
    with pytest.raises(ValueError, match="`head:0`: the layer has no `0`. It has: one tensor"):
        taps.run(model, ops.ones((1, 3)), ["head:0"])


def deberta():
    return hub.DebertaV3Backbone(
        **SIZES, max_sequence_length=8, bucket_size=2, dropout=0.0
    )


def test_the_first_call_of_a_projection_is_that_of_the_tokens():
    model = deberta()
    path = "disentangled_attention_encoder_layer_1/self_attention_layer/query"
    listed = taps.calls(model)[path]
    assert listed[0] == (None, None, 2, 4)  # tokens
    assert listed[1][1:] == (4, 2, 4)  # relative positions
    x = {"token_ids": np.ones((3, 5), int), "padding_mask": np.ones((3, 5), bool)}
    found = taps.run(model, x, [f"{path}#0", f"{path}#1"])
    assert found[f"{path}#0"].shape == (3, 5, 2, 4) and found[f"{path}#1"].shape[1] == 4
    with pytest.warns(UserWarning, match=f"{path}#0"):
        last = taps.run(model, x, [path])[path]
    np.testing.assert_array_equal(arrays(last), arrays(found[f"{path}#1"]))
    with pytest.raises(ValueError, match="adds scores of relative positions"):
        taps.find_layer(model, "disentangled_attention_encoder_layer_1/self_attention_layer:scores")
