"""Students of families without names of their own, with adapters, or with listed blocks."""

import pathlib
import sys

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill import models
from keras_distill.models.shrinking import sizes
from keras_distill.models.shrinking.choice import Choice

pytest.importorskip("keras_hub")
sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "benchmarks"))
import hub_models  # noqa: E402


def random_weights(model):
    generator = np.random.default_rng(3)
    for weight in model.weights:
        if "float" in weight.dtype:
            value = generator.normal(size=weight.shape) * 0.3
            weight.assign(np.abs(value) + 0.5 if "variance" in weight.name else value)
    return model


def outputs(model, x):
    return [keras.ops.convert_to_numpy(each) for each in keras.tree.flatten(model(x))]


@pytest.mark.parametrize(
    "family", ["T5Gemma", "PaliGemma", "SigLIP", "DINOv2", "DINOv3", "ELECTRA", "EdRec", "SmolLM 3",
               "ViTDet"],
)  # fmt: skip
def test_with_nothing_cut_the_outputs_are_the_teachers(family):
    teacher = random_weights(hub_models.FAMILIES[family](2))
    layers.RMSNormalization()  # a name that Keras numbers is another in every model
    x = hub_models.inputs(teacher)
    for ours, theirs in zip(outputs(models.shrink(teacher, every=1), x), outputs(teacher, x)):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    student = models.shrink(teacher, depth=1)
    assert student.count_params() < teacher.count_params()


def test_layers_that_are_as_many_as_blocks_are_none():
    """Whisper's two convolutions before its encoder are called `..._layer_1` and `..._layer_2`."""
    teacher = hub_models.FAMILIES["Whisper"](2)
    student = models.shrink(teacher, layers=[1])
    for name in ("transformer_encoder_layer_", "transformer_decoder_layer_"):
        for weight, wanted in zip(student.get_layer(f"{name}0").weights,
                                  teacher.get_layer(f"{name}1").weights, strict=True):  # fmt: skip
            np.testing.assert_array_equal(weight, wanted)


def test_what_stands_before_the_blocks_is_narrowed_with_them():
    student = models.shrink(hub_models.FAMILIES["Moonshine"](1), width=0.5)
    assert (student.hidden_dim, student.filter_dim) == (8, 8)
    student(hub_models.inputs(student))


@pytest.mark.parametrize("family", ["ELECTRA", "EdRec"])
def test_a_vocabulary_of_another_name_is_cut(family):
    teacher = random_weights(hub_models.FAMILIES[family](1))
    kept = [0, 1, 2, 5, 8, 13]
    student = models.shrink(teacher, vocabulary=kept)
    backbones = [getattr(each, "backbone", each) for each in (student, teacher)]
    assert backbones[0].vocab_size == 6
    ours, theirs = (each.token_embedding.embeddings for each in backbones)
    np.testing.assert_array_equal(ours, np.asarray(theirs)[kept])


def test_electra_is_narrowed_with_its_embeddings():
    student = models.shrink(hub_models.FAMILIES["ELECTRA"](1), width=0.5)
    assert (student.hidden_dim, student.embedding_dim) == (8, 8)


def test_a_key_and_value_head_that_all_queries_share_stays():
    student = models.shrink(hub_models.FAMILIES["Llama"](1), width=0.5).backbone
    assert (student.num_query_heads, student.num_key_value_heads) == (1, 1)


def adapted(model):
    """The model with LoRA in its layers, whose products are not zero."""
    for layer in model._flatten_layers():
        if hasattr(layer, "enable_lora") and layer.weights:
            layer.enable_lora(2, lora_alpha=6)
    generator = np.random.default_rng(0)
    for weight in model.trainable_weights:
        if "lora" in weight.name:
            weight.assign(generator.normal(size=weight.shape))
    return model


def test_adapters_are_merged_into_a_cut_backbone():
    teacher = hub_models.FAMILIES["GPT-2"](2)
    teacher.backbone.enable_lora(2)
    for weight in teacher.trainable_weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    student, x = models.shrink(teacher, layers=[0, 1]), hub_models.inputs(teacher)
    np.testing.assert_allclose(outputs(student, x)[0], outputs(teacher, x)[0], atol=1e-4)
    assert not any("lora" in weight.name for weight in student.weights)


def test_adapters_of_a_graph_are_merged_by_their_formula():
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Embedding(7, 3, name="words")(inputs)
    for block in range(2):
        x = layers.Dense(3, name=f"block_{block}_dense")(x)
    teacher = adapted(keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(x))))
    student = models.shrink(teacher, layers=[0, 1])
    head = teacher.get_layer("head")
    kernel, a, b = (np.asarray(each, "float64") for each in (
        head._kernel, head.lora_kernel_a, head.lora_kernel_b))  # fmt: skip
    np.testing.assert_allclose(student.get_layer("head").kernel, kernel + a @ b * 6 / 2, rtol=1e-5)
    tokens = np.array([[1, 2, 3, 6]])
    np.testing.assert_allclose(student(tokens), teacher(tokens), rtol=1e-4, atol=1e-5)
    assert not any("lora" in weight.name for weight in student.weights)


def test_blocks_that_keras_has_numbered_are_kept_by_their_order():
    teacher = random_weights(hub_models.FAMILIES["ViTDet"](4))
    student = models.shrink(teacher, layers=[1, 3])
    theirs, ours = ([layer for layer in model.layers if "Windowed" in type(layer).__name__]
                    for model in (teacher, student))  # fmt: skip
    assert (len(ours), student.global_attention_layer_indices) == (2, [1])
    for one, other in zip(ours, theirs[1::2]):
        for weight, wanted in zip(one.weights, other.weights, strict=True):
            np.testing.assert_array_equal(weight, wanted)


def test_what_is_listed_by_block_goes_with_its_block():
    config = {"num_layers": 4, "rope_layer_enabled_list": [True, True, True, False],
              "layer_types": list("abcd")}  # fmt: skip
    stacks = {"transformer_layer_": [0, 1, 2, 3]}
    cut, _ = sizes.cut_depth(config, stacks, Choice(layers=[0, 3]), "smol")
    assert cut == {
        "num_layers": 2, "rope_layer_enabled_list": [True, False], "layer_types": ["a", "d"],
    }  # fmt: skip


REFUSED = {
    "MiT": "stages of `layerwise_depths` blocks. Build the shallower student yourself",
    "Swin": "has none of num_layers.*Build the smaller student yourself",
    "Flux": "a `MLPEmbedder`, cannot be copied.*has no `get_config`. Build the student",
    "MobileNet": "its 2 stages of .* blocks were not found. Found: .*Build the shallower student",
}


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_cut_is_told_why(family):
    with pytest.raises(ValueError, match=REFUSED[family]):
        models.shrink(hub_models.FAMILIES[family](2), depth=1)


def test_a_first_block_that_differs_from_the_others_must_stay():
    teacher = hub_models.FAMILIES["RWKV-7"](3)
    assert models.shrink(teacher, layers=[0, 2]).backbone.num_layers == 2
    with pytest.raises(ValueError, match="`rwkv_layer_1`.*`rwkv_layer_0`, because only one.*"
                                         "Choose `layers` that keep `rwkv_layer_0`"):  # fmt: skip
        models.shrink(teacher, layers=[1, 2])


def test_shared_keys_and_values_are_refused():
    config = {"num_layers": 4, "num_kv_shared_layers": 2}
    with pytest.raises(ValueError, match="last 2 blocks use keys and values of earlier blocks"):
        sizes.cut_depth(config, {"block_": [0, 1, 2, 3]}, Choice(depth=2), "gemma")
