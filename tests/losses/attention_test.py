"""Losses on attention against plain loops."""

import keras
import numpy as np
import pytest
from backends import array, tensor, tensorflow_only, tf

from keras_distill import losses

RANDOM = np.random.default_rng(0)
TEACHER, STUDENT = RANDOM.normal(size=(2, 2, 3, 4, 4)).astype("float32") * 2
MASK = np.array([[1, 1, 1, 1], [0, 1, 1, 0]])  # padded on both sides
MASKS = [None, MASK]


def seen(mask, example):
    """The tokens of an example that count."""
    return [t for t in range(4) if mask is None or mask[example, t]]


def softmax(scores):
    powers = [np.exp(float(score)) for score in scores]
    return [power / sum(powers) for power in powers]


def loop(formula, mask, teacher=TEACHER, student=STUDENT):
    """`formula` of two lists of scores, averaged over heads: a value for each query that counts."""
    values = np.full((2, 4), np.nan)
    for b in range(2):
        keys = seen(mask, b)
        for q in keys:
            rows = zip(teacher[b, :, q], student[b, :, q], strict=True)
            found = [formula([t[k] for k in keys], [s[k] for k in keys]) for t, s in rows]
            values[b, q] = sum(found) / len(found)
    return values


def divergence(teacher, student):
    pairs = zip(softmax(teacher), softmax(student), strict=True)
    return sum(p * np.log(p / q) for p, q in pairs)


def cross_entropy(teacher, student):
    pairs = zip(softmax(teacher), softmax(student), strict=True)
    return -sum(p * np.log(q) for p, q in pairs)


def squares(teacher, student):
    return sum((t - s) ** 2 for t, s in zip(teacher, student, strict=True)) / len(teacher)


def compare(loss, expected, mask, teacher=TEACHER, student=STUDENT):
    tensors = [tensor(scores, "float32") for scores in (teacher, student)]
    values = loss.call(*tensors, mask=None if mask is None else tensor(mask, "float32"))
    real = np.isfinite(expected)
    assert values.shape == (2, 4)
    np.testing.assert_allclose(array(values)[real], expected[real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mask", MASKS, ids=["whole", "padded"])
@pytest.mark.parametrize(
    "loss, formula",
    [
        (losses.AttentionDivergence, divergence),
        (losses.AttentionCrossEntropy, cross_entropy),
        (losses.AttentionMSE, squares),
    ],
)
def test_each_query_has_the_formulas_value(loss, formula, mask):
    compare(loss(), loop(formula, mask), mask)


@pytest.mark.parametrize("heads", ["mean", "sum"])
@pytest.mark.parametrize(
    "loss, formula",
    [
        (losses.AttentionDivergence, divergence),
        (losses.AttentionCrossEntropy, cross_entropy),
        (losses.AttentionMSE, squares),
    ],
)
def test_heads_compared_together_may_differ_in_number(loss, formula, heads):
    student = STUDENT[:, :2]
    merged = [getattr(side, heads)(axis=1, keepdims=True) for side in (TEACHER, student)]
    compare(loss(heads=heads), loop(formula, MASK, *merged), MASK, TEACHER, student)
    assert not loss(heads=heads).same_shape and loss().same_shape


def test_the_divergence_is_the_cross_entropy_less_the_teachers_entropy():
    entropy = losses.AttentionCrossEntropy().call(TEACHER, TEACHER)
    crossed = losses.AttentionCrossEntropy().call(TEACHER, STUDENT)
    compare(losses.AttentionDivergence(), array(crossed - entropy), None)


def test_low_scores_count_as_nothing_on_either_side():
    def clipped(teacher, student):
        clip = [[score if score > -0.5 else 0.0 for score in side] for side in (teacher, student)]
        return squares(*clip)

    compare(losses.AttentionMSE(threshold=-0.5), loop(clipped, None), None)
    padded = [np.where(MASK[:, None, None] > 0, side, -1e9) for side in (TEACHER, STUDENT)]
    zeroed = [np.where(MASK[:, None, None] > 0, side, 0.0) for side in (TEACHER, STUDENT)]
    compare(losses.AttentionMSE(), loop(squares, None, *zeroed), None, *padded)


def test_keys_that_the_teacher_scores_low_weigh_nothing():
    def dropped(teacher, student):
        rows = zip(teacher, softmax(teacher), softmax(student), strict=True)
        return -sum(p * np.log(q) for score, p, q in rows if score > -0.5)

    compare(losses.AttentionCrossEntropy(threshold=-0.5), loop(dropped, None), None)


@pytest.mark.parametrize("low", [-1e4, -1e9, -np.inf])
@pytest.mark.parametrize(
    "loss",
    [
        losses.AttentionDivergence(),
        losses.AttentionCrossEntropy(),
        losses.AttentionMSE(),
        losses.AttentionMSE(threshold=None),
        losses.AttentionMSE("sum"),
    ],
    ids=lambda loss: f"{loss.name}-{loss.heads}",
)
@tensorflow_only
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_huge_and_masked_scores_are_finite(loss, low, jit_compile):
    causal = np.tril(np.ones((4, 4), bool))
    teacher, student = (
        tensor(np.where(causal, 1e4 * side, low), "float32") for side in (TEACHER, STUDENT)
    )

    @tf.function(jit_compile=jit_compile)
    def compute(student):
        with tf.GradientTape() as tape:
            tape.watch(student)
            values = loss.call(teacher, student, mask=tensor(MASK))
        return values, tape.gradient(values, student)

    for result in compute(student):
        assert np.isfinite(result.numpy()).all()


@pytest.mark.parametrize(
    "loss", [losses.AttentionDivergence, losses.AttentionCrossEntropy, losses.AttentionMSE]
)
def test_heads_are_merged_in_known_ways(loss):
    with pytest.raises(ValueError, match="`heads` must be .*Received: heads='max'"):
        loss(heads="max")
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(loss(heads="sum"))
    )
    assert again.heads == "sum" and not again.same_shape


@pytest.mark.parametrize(
    "loss, formula",
    [
        (losses.AttentionDivergence, divergence),
        (losses.AttentionCrossEntropy, cross_entropy),
        (losses.AttentionMSE, squares),
    ],
)
def test_keys_of_another_sequence_are_not_the_masks(loss, formula):
    """Of six keys the last two are padding in the second example; a query there is padding too."""
    teacher, student = RANDOM.normal(size=(2, 2, 3, 4, 6)).astype("float32")
    kept = np.array([[1] * 6, [1, 1, 1, 1, 0, 0]])[:, None, None] > 0
    teacher, student = (np.where(kept, scores, -1e9) for scores in (teacher, student))
    queries = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    expected = np.full((2, 4), np.nan)
    for b, q in np.argwhere(queries):
        count = int(kept[b].sum())
        rows = np.where(kept[b], [teacher[b], student[b]], 0)[:, :, q, :count]
        expected[b, q] = np.mean([formula(*pair) for pair in zip(*rows, strict=True)])
    compare(loss(cross=True), expected, queries, teacher, student)
    again = loss.from_config(loss(cross=True).get_config())
    assert again.cross and again.token_axes == (2,) and loss().token_axes == (2, 3)


@tensorflow_only
@pytest.mark.parametrize(
    "loss, formula",
    [
        (losses.AttentionDivergence, divergence),
        (losses.AttentionCrossEntropy, cross_entropy),
        (losses.AttentionMSE, squares),
    ],
)
def test_attention_of_an_answer_to_its_prompt(loss, formula):
    """Two tokens of prompt, two of answer; `mask="sample_weight"` leaves the prompt out."""
    from keras_distill.batch import Batch
    from keras_distill.training.term import Term

    causal = np.tril(np.ones((4, 4), bool))
    sides = [np.where(causal, side, -1e9).astype("float32") for side in (TEACHER, STUDENT)]
    teacher, student = ({"output": tensor(side)} for side in sides)
    batch = Batch({}, None, tensor([[0.0, 0, 1, 1]] * 2), None)
    values, weights = Term(loss(cross=True))(student, teacher, batch)
    for b, q in np.ndindex(2, 4):
        rows = zip(*(side[b, :, q, : q + 1] for side in sides), strict=True)
        expected = np.mean([formula(*row) for row in rows]) if q > 1 else 0.0
        assert float(values[b, q]) == pytest.approx(expected, rel=1e-4)
    assert weights.numpy().tolist() == [[0, 0, 1, 1]] * 2
    among_themselves = Term(loss())(student, teacher, batch)[0]
    assert np.abs(values - among_themselves)[:, 2:].max() > 0.01
