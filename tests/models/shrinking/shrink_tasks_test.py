"""Whole tasks cut from their teachers: backbone, head and what they say."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_distill import models

hub = pytest.importorskip("keras_hub").models
SIZES = {"vocabulary_size": 20, "num_layers": 4, "hidden_dim": 8, "intermediate_dim": 8}
HEADS, GROUPS = {"num_heads": 2}, {"num_query_heads": 2, "num_key_value_heads": 1}
SHORT = {"max_sequence_length": 6}


def randomized(model):
    random = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(random.normal(size=weight.shape) * 0.3)
    return model


def batch(model):
    """Two texts of six tokens, the second padded."""
    random = np.random.default_rng(1)
    mask = np.array([[1] * 6, [1] * 4 + [0] * 2])
    return {
        name: random.integers(1, 20, (2, 6)) if "token_ids" in name else mask
        for name in model.input
    }


@pytest.mark.parametrize("kind", ["Roberta", "DistilBert"])
@pytest.mark.parametrize("hidden, cut", [(None, 4), (6, 6)])
def test_a_classifier_with_a_layer_before_its_logits(kind, hidden, cut):
    """That layer is as wide as the backbone, and narrows with it, or as wide as was asked."""
    backbone = getattr(hub, f"{kind}Backbone")(**SIZES, **HEADS, **SHORT)
    teacher = randomized(getattr(hub, f"{kind}TextClassifier")(backbone, 3, hidden_dim=hidden))
    x = batch(teacher)
    np.testing.assert_array_equal(models.shrink(teacher, every=1)(x), teacher(x))
    student = models.shrink(teacher, every=2, width=0.5)
    assert type(student) is type(teacher) and student.backbone.num_layers == 2
    assert student.hidden_dim == cut and student.pooled_dense.kernel.shape == (4, cut)
    corner = np.asarray(teacher.output_dense.kernel)[:cut]
    np.testing.assert_array_equal(student.output_dense.kernel, corner)
    assert np.isfinite(student(x)).all()


GENERATORS = {
    "gpt2": lambda: hub.GPT2CausalLM(hub.GPT2Backbone(**SIZES, **HEADS, **SHORT), None),
    "llama": lambda: hub.LlamaCausalLM(hub.LlamaBackbone(**SIZES, **GROUPS), None),
    "bart": lambda: hub.BartSeq2SeqLM(hub.BartBackbone(**SIZES, **HEADS, **SHORT), None),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_a_model_that_generates_is_cut_in_depth(name):
    teacher = randomized(GENERATORS[name]())
    x = batch(teacher)
    np.testing.assert_array_equal(models.shrink(teacher, every=1)(x), teacher(x))
    student = models.shrink(teacher, layers=[0, 3])
    assert type(student) is type(teacher) and student.backbone.num_layers == 2
    hidden = models.shrink(teacher.backbone, layers=[0, 3])(x)
    hidden = hidden["decoder_sequence_output"] if name == "bart" else hidden
    expected = teacher.backbone.token_embedding(hidden, reverse=True)
    np.testing.assert_allclose(student(x), expected, atol=1e-5)
    student.compile(sampler="greedy", run_eagerly=True)
    side = "decoder_" if name == "bart" else ""
    ids, mask = f"{side}token_ids", f"{side}padding_mask"
    whole = {**x, mask: np.ones((2, 6), int)}
    asked = {**x, mask: np.array([[1, 1, 1, 0, 0, 0]] * 2)}
    said = student.generate(asked, stop_token_ids=None)[ids]
    likeliest = ops.argmax(student({**whole, ids: said})[:, 2:-1], axis=-1)
    np.testing.assert_array_equal(ops.convert_to_numpy(said)[:, 3:], likeliest)


def test_a_bert_base_at_six_layers():
    teacher = hub.BertBackbone(
        vocabulary_size=30522, num_layers=12, num_heads=12, hidden_dim=768,
        intermediate_dim=3072, dtype="float32",
    )  # fmt: skip
    assert teacher.count_params() == 109_482_240
    student = models.shrink(teacher, every=2)
    assert student.count_params() == 66_955_008
    last = student.get_layer("transformer_layer_5"), teacher.get_layer("transformer_layer_10")
    for ours, theirs in zip(*(keras.tree.flatten(each.weights) for each in last), strict=True):
        np.testing.assert_array_equal(ours, theirs)
