"""Blocks, attention and masks of transformers, known by their structure, and their pairs."""

import pathlib
import sys
import warnings

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill import Distiller, models, recipes
from keras_distill.recipes.attention_layers import attentions
from keras_distill.recipes.stacks import stacks_of

keras_hub = pytest.importorskip("keras_hub")
sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
import hub_models  # noqa: E402

SEQUENCE = ("sample_weight", "input:padding_mask")


@pytest.fixture(scope="module")
def made():
    """`made(family, depth)`: a small model, made once."""
    known = {}

    def make(family, depth):
        if (family, depth) not in known:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                known[family, depth] = hub_models.FAMILIES[family](depth)
        return known[family, depth]

    return make


def ends(path):
    """A path from the block on: what comes before is the backbone's name.

    Older versions of KerasHub write "tranformer".
    """
    names = path.replace("tranformer", "transformer").split("/")
    return "/".join(name for name in names if "_backbone" not in name)


BLOCKS = {
    "BERT": ["transformer_layer_0", "transformer_layer_1"],
    "ALBERT": ["group_0_inner_layer_0#0", "group_0_inner_layer_0#1"],
    "XLNet": ["xlnet_encoder_0:0", "xlnet_encoder_1:0"],
    "FNet": ["f_net_layer_0", "f_net_layer_1"],
    "ViT": ["vit_encoder/transformer_block_1", "vit_encoder/transformer_block_2"],
    "DeiT": ["deit_encoder/transformer_block_1:0", "deit_encoder/transformer_block_2:0"],
    "T5": [f"transformer_{side}_layer_{i}:0" for side in ("encoder", "decoder") for i in (0, 1)],
    "BART": [f"transformer_{side}_layer_{i}" for side in ("encoder", "decoder") for i in (0, 1)],
    "MiT": [f"hierarchical_encoder_{stage}_{i}" for stage in (0, 1) for i in (0, 1)],
}


@pytest.mark.parametrize("family", BLOCKS)
def test_blocks_are_found(made, family):
    found = [ends(path) for path, _ in recipes.matching.stages(made(family, 2))]
    assert found == BLOCKS[family]


ONE = {"BERT": "transformer_layer_0", "ALBERT": "group_0_inner_layer_0", "FNet": "f_net_layer_0",
       "ViT": "vit_encoder/transformer_block_1"}  # fmt: skip


@pytest.mark.parametrize("family", ONE)
def test_a_student_of_one_block_goes_with_the_teachers_last(made, family):
    (ours, theirs), = recipes.matching.match_layers(made(family, 1), made(family, 2), verbose=False)
    assert [ends(ours), ends(theirs)] == [ONE[family], BLOCKS[family][-1]]


PROJECTIONS = {
    "BERT": ("query", "key", "value"),
    "Bloom": ("query_dense", "key_dense", "value_dense"),
    "Falcon": ("query_dense", "key_dense", "value_dense"),
    "ESM": ("q_dense_layer", "k_dense_layer", "v_dense_layer"),
    "XLNet": ("query", "key", "value"),
    "T5": ("query_projector", "key_projector", "value_projector"),
    "SmolLM 3": ("q_proj", "k_proj", "v_proj"),
    "DINOv3": ("q_proj", "k_proj", "v_proj"),
    "GPT-NeoX": ("query_key_value",),
    "Swin": ("attention_qkv",),
    "DeBERTaV3": ("query", "key", "value"),
}


@pytest.mark.parametrize("family", PROJECTIONS)
def test_projections_are_found_whatever_they_are_called(made, family):
    found = attentions(made(family, 2))[0]
    assert tuple(path.rpartition("/")[2] for path in found.projections.values()) == (
        PROJECTIONS[family]
    )
    assert found.fused == (len(PROJECTIONS[family]) == 1)


def test_of_several_calls_the_one_on_the_tokens_counts(made):
    term, = recipes.minilm(made("DeBERTaV3", 2), made("DeBERTaV3", 4))
    assert {name: path.rpartition("/")[2] for name, path in term.student.items()} == {
        "query": "query#0", "key": "key#0", "value": "value",
    }  # fmt: skip
    assert "encoder_layer_3/" in term.teacher["query"]


def test_a_shared_block_counts_by_its_turns(made):
    student, teacher = made("ALBERT", 2), made("ALBERT", 4)
    hidden, scores, *_ = recipes.tinybert(student, teacher)
    assert (ends(hidden.student), ends(hidden.teacher)) == (
        "group_0_inner_layer_0#0", "group_0_inner_layer_0#1",
    )  # fmt: skip
    assert scores.teacher.endswith("self_attention_layer#1:scores")
    last, = recipes.minilm(student, teacher)
    assert last.teacher["key"].endswith("key#3") and last.student["key"].endswith("key#1")


@pytest.mark.parametrize("family", ["BART", "EdRec"])
def test_both_sides_are_compared_each_with_its_own_mask(made, family):
    terms = recipes.tinybert(made(family, 2), made(family, 4))
    assert [term.name for term in terms] == [
        "hidden_0", "attention_0", "hidden_1", "attention_1",
        "hidden_2", "attention_2", "cross_attention_2",
        "hidden_3", "attention_3", "cross_attention_3",
    ]  # fmt: skip
    for term in terms:
        side = "encoder" if term.name[-1] in "01" else "decoder"
        assert side in term.student and side in term.teacher
        weights = "sample_weight" if side == "decoder" else "example:sample_weight"
        assert term.masks == (weights, f"input:{side}_padding_mask")
        crosses = term.name.startswith("cross")
        assert ("cross_attention" in str(term.student)) == crosses
        assert getattr(term.loss, "cross", False) == crosses


def test_an_examples_weight_counts_on_both_sides():
    """An example that weighs nothing leaves every term as it is without the example."""
    sizes = {**hub_models.TEXT, **hub_models.SHORT, "num_layers": 1, "dropout": 0.0}
    hub = keras_hub.models
    student, teacher = (
        hub.BartSeq2SeqLM(backbone=hub.BartBackbone(**sizes), preprocessor=None) for _ in range(2)
    )
    terms = recipes.distilbert(student, teacher)[1:]
    x = hub_models.inputs(teacher)
    zero, first = [1.0, 0.0], {name: value[:1] for name, value in x.items()}
    tokens = x["decoder_padding_mask"] * np.array(zero)[:, None]

    def logs(x, weights):
        distiller = Distiller(student, teacher=teacher, terms=terms, alpha=1.0)
        distiller.compile(keras.optimizers.SGD(0.0), loss=None, run_eagerly=True)
        found = distiller.fit(x, sample_weight=weights, verbose=0).history
        return {name: value[0] for name, value in found.items() if name.startswith("cosine_")}

    wanted = logs(first, None)
    assert len(wanted) == 2
    for weights in (np.array(zero), tokens):
        assert logs(x, weights) == pytest.approx(wanted, rel=1e-4)


def test_an_images_tokens_before_the_texts_do_not_count(made):
    student, teacher = made("PaliGemma", 1), made("PaliGemma", 2)
    of_image, of_text = recipes.minilm(student, teacher)
    assert "image_encoder" in of_image.student["key"] and "decoder_block_0" in (
        of_text.student["key"]
    )
    assert of_image.masks == ("example:sample_weight",)
    assert of_text.masks == ("last:sample_weight", "last:input:padding_mask")
    assert [term.masks for term in recipes.pkd(student, teacher)] == [
        ("example:sample_weight",), ("example:sample_weight",),
    ]  # fmt: skip


def test_inner_layers_of_a_shared_block_take_turns():
    sizes = {**hub_models.TEXT, **hub_models.SHORT, "embedding_dim": 8}
    student, teacher = (
        keras_hub.models.AlbertBackbone(num_layers=depth, num_inner_repetitions=2, **sizes)
        for depth in (1, 2)
    )
    assert recipes.matching.match_layers(student, teacher, verbose=False) == [
        ("group_0_inner_layer_0", "group_0_inner_layer_1#0"),
        ("group_0_inner_layer_1", "group_0_inner_layer_1#1"),
    ]
    assert [path for path, _ in recipes.matching.stages(teacher)] == [
        f"group_0_inner_layer_{layer}#{turn}" for turn in (0, 1) for layer in (0, 1)
    ]


def test_t5_compares_its_own_attention_with_its_own(made):
    terms = recipes.minilm(made("T5", 2), made("T5", 4))
    assert [term.name for term in terms] == ["minilm_relations_0", "minilm_relations_1"]
    for term, side in zip(terms, ("encoder", "decoder"), strict=True):
        for path, block in ((term.student, 1), (term.teacher, 3)):
            assert ends(path["query"]) == (
                f"transformer_{side}_layer_{block}/self_attention/query_projector"
            )
        assert term.loss.relation_heads == 2  # these projections have no axis of heads


MASKS = {
    "BERT": SEQUENCE,
    "Llama": SEQUENCE,
    "ViT": ("sample_weight",),
    "ESM": ("sample_weight",),
}


@pytest.mark.parametrize("family", MASKS)
def test_a_mask_that_is_not_there_is_not_asked_for(made, family):
    model = made(family, 2)
    for recipe in (recipes.minilm, recipes.pkd, recipes.distilbert):
        assert recipe(model, model)[-1].masks == MASKS[family]
    assert recipes.pkd(model, model, mask="input:own")[0].masks == ("input:own",)


def test_all_but_the_last_of_each_side_are_patient(made):
    model = made("BART", 2)
    assert [ends(term.student) for term in recipes.pkd(model, model)] == [
        "transformer_encoder_layer_0", "transformer_decoder_layer_0",
    ]  # fmt: skip
    one = made("BERT", 1)
    assert len(recipes.pkd(one, one)) == 1  # the last, where there is no other


REFUSED = {
    ("FNet", "minilm"): "`FNetEncoder`, holds no attention layer. Its layers are: .*output_dense",
    ("FNet", "tinybert"): "holds no attention layer",
    ("GPT-NeoX", "minilm"): "in one layer, `.*self_attention/query_key_value`, so they cannot be",
    ("Bloom", "tinybert"): "`BloomAttention`, cannot .* its projections `.*query_dense`",
    ("XLNet", "tinybert"): "`TwoStreamRelativeAttention`, cannot be read. Compare its projections",
    ("Gemma 3n", "distilbert"): "does not return a tensor .batch.*inside it .attention, .*laurel",
    ("CSPNet", "pkd"): "no transformer block.*a `Add`.*as `recipes.fitnets` does",
}


@pytest.mark.parametrize("family, recipe", REFUSED)
def test_what_cannot_be_is_refused_with_the_models_own_layers(made, family, recipe):
    model = made(family, 2)
    with pytest.raises(ValueError, match=REFUSED[family, recipe]):
        getattr(recipes, recipe)(model, model)


def test_sides_that_do_not_go_together_are_refused(made):
    with pytest.raises(ValueError, match="same number.*encoder_layer_0 to .*decoder_layer_1"):
        recipes.matching.match_layers(made("BERT", 2), made("BART", 2))


def test_pairs_may_be_named(made):
    student, teacher = made("BART", 2), made("BART", 4)
    pair = recipes.matching.match_layers(student, teacher, verbose=False)[-1]
    term, = recipes.minilm(student, teacher, pair=pair)
    assert term.name == "minilm_relations" and "decoder_layer_1/self_attention" in (
        term.student["query"]
    )
    assert term.masks == ("sample_weight", "input:decoder_padding_mask")


def test_a_cut_student_has_its_blocks_matched(made):
    teacher = made("DeBERTaV3", 4)
    pairs = recipes.matching.match_layers(models.shrink(teacher, every=2), teacher, verbose=False)
    assert [theirs[-1] for _, theirs in pairs] == ["1", "3"]


def written_out(blocks):
    """A transformer whose layers stand side by side."""
    inputs = x = keras.Input((5, 4))
    for block in range(blocks):
        attended = layers.MultiHeadAttention(2, 2, name=f"attention_{block}")(x, x)
        x = layers.Add(name=f"attended_{block}")([x, attended])
        normalized = layers.LayerNormalization()(x)
        x = layers.Add(name=f"fed_{block}")([x, layers.Dense(4)(normalized)])
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


def test_a_transformer_of_layers_side_by_side_ends_its_blocks_with_sums():
    stack, = stacks_of(written_out(2))
    assert [block.path for block in stack] == ["fed_0", "fed_1"]
    assert [block.attentions[0].path for block in stack] == ["attention_0", "attention_1"]
    term, = recipes.minilm(written_out(1), written_out(2))
    assert term.teacher["value"] == "attention_1/value"
