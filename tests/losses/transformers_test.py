"""Losses on what is tapped of a Transformer: padding changes neither loss nor gradient."""

import keras
import numpy as np
import pytest
from backends import need_tensorflow, tf

need_tensorflow()

from keras_distill import losses, taps
from keras_distill.batch import Batch
from keras_distill.training.term import Term

hub = pytest.importorskip("keras_hub")
ATTENTION = "transformer_layer_1/self_attention_layer"
LAYERS = ["transformer_layer_0", "transformer_layer_1"]
TOKENS = np.random.default_rng(0).integers(1, 20, (3, 4))
TERMS = {
    "divergence": (losses.AttentionDivergence(), f"{ATTENTION}:scores"),
    "cross-entropy": (losses.AttentionCrossEntropy("mean"), f"{ATTENTION}:scores"),
    "scores": (losses.AttentionMSE(), f"{ATTENTION}:scores"),
    "scores, no limit": (losses.AttentionMSE("sum", threshold=None), f"{ATTENTION}:scores"),
    "minilm": (
        losses.MiniLMRelations([("query", "key"), ("value", "value")]), taps.attention(ATTENTION),
    ),
    "minilm 2": (losses.MiniLMRelations(relation_heads=4), taps.attention(ATTENTION)),
    "cosine": (losses.Cosine(), LAYERS[1]),
    "patient": (losses.PatientKD(), LAYERS[1]),
    "patient, all": (losses.PatientKD("all"), LAYERS[1]),
    "flow": (losses.SequenceFlow(), LAYERS),
    "gram": (losses.TokenGram(), LAYERS),
}  # fmt: skip


def backbone(scale):
    keras.utils.set_random_seed(0)
    model = hub.models.BertBackbone(
        vocabulary_size=20, num_layers=2, num_heads=2, hidden_dim=8, intermediate_dim=8,
        max_sequence_length=6,
    )  # fmt: skip
    random = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(weight + scale * random.normal(size=weight.shape))
    return model


@pytest.fixture(scope="module")
def models():
    return backbone(0.3), backbone(0.5)


def padded(tokens):
    mask = np.ones_like(tokens)
    tokens, mask = (np.pad(array, ((0, 0), (0, 2))) for array in (tokens, mask))
    return inputs(tokens, mask)


def inputs(tokens, mask):
    x = {"token_ids": tokens, "padding_mask": mask, "segment_ids": np.zeros_like(tokens)}
    return {name: tf.constant(value) for name, value in x.items()}


def compute(term, models, x):
    """The term's mean over a batch and the gradients of the student's weights."""
    student, teacher = models
    paths = tf.nest.flatten(term.student)
    batch = Batch(x=x, labels=None, sample_weight=None, targets=None)
    with tf.GradientTape() as tape:
        targets = taps.run(teacher, x, paths)
        loss = term(taps.run(student, x, paths), targets, batch).mean()
    weights = [weight.value for weight in student.trainable_weights]
    gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
    return [tf.convert_to_tensor(tensor).numpy() for tensor in (loss, *gradients)]


@pytest.mark.parametrize("name", TERMS)
def test_padding_changes_nothing(models, name):
    loss, path = TERMS[name]
    term = Term(loss, student=path, teacher=path, mask="input:padding_mask")
    whole = compute(term, models, inputs(TOKENS, np.ones_like(TOKENS)))
    longer = compute(term, models, padded(TOKENS))
    assert whole[0] > 1e-4 and any(np.abs(tensor).max() > 1e-5 for tensor in whole[1:])
    for one, other in zip(whole, longer, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=2e-6)
