"""MiniLM's relations against plain loops."""

import numpy as np
import pytest
from backends import call, tensor, tensorflow_only, tf

from keras_distill import losses
from keras_distill.batch import Batch

NAMES = ("query", "key", "value")
MASK = np.array([[1, 1, 1, 1], [0, 1, 1, 0]])
V1 = [("query", "key"), ("value", "value")]


def side(heads, width, seed):
    random = np.random.default_rng(seed)
    return {name: random.normal(size=(2, 4, heads, width)).astype("float32") for name in NAMES}


def loop(relations, heads, mask, teacher, student):
    """A value for each example, one relation, head and query after another."""
    values = []
    for b in range(2):
        tokens = [t for t in range(4) if mask is None or mask[b, t]]
        total = 0.0
        for one, other, weight in relations:
            for h in range(heads):
                for q in tokens:
                    rows = []
                    for each in (teacher, student):
                        first, second = (
                            np.reshape(each[n][b], (4, heads, -1)) for n in (one, other)
                        )
                        scores = [first[q, h] @ second[k, h] / len(first[q, h]) ** 0.5
                                  for k in tokens]  # fmt: skip
                        rows.append(np.exp(scores) / np.sum(np.exp(scores)))
                    divergence = sum(rows[0] * np.log(rows[0] / rows[1]))
                    total += weight * divergence / (heads * len(tokens))
        values.append(total)
    return values


def compare(loss, relations, heads, mask, teacher, student):
    given = None if mask is None else tensor(mask, "float32")
    values = loss.call(teacher, student, mask=given)
    expected = loop(relations, heads, mask, teacher, student)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
def test_the_first_minilm_compares_the_layers_own_heads(mask):
    loss = losses.MiniLMRelations(V1)
    relations = [(*pair, 1.0) for pair in V1]
    compare(loss, relations, 2, mask, side(2, 5, 0), side(2, 3, 1))


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
@pytest.mark.parametrize("heads", [1, 2, 6])
def test_the_second_minilm_splits_into_any_number_of_heads(mask, heads):
    loss = losses.MiniLMRelations(relation_heads=heads)
    relations = [(name, name, 1.0) for name in NAMES]
    compare(loss, relations, heads, mask, side(4, 3, 0), side(2, 3, 1))


def test_relations_have_weights():
    relations = [("query", "key", 0.25), ("value", "value", 2.0)]
    loss = losses.MiniLMRelations(relations)
    compare(loss, relations, 2, MASK, side(2, 5, 0), side(2, 3, 1))


def test_projections_need_no_heads_of_their_own():
    sides = [side(4, 3, 0), side(2, 3, 1)]
    flat = [{name: x.reshape(2, 4, -1) for name, x in each.items()} for each in sides]
    loss = losses.MiniLMRelations(relation_heads=2)
    np.testing.assert_allclose(call(loss, *flat), call(loss, *sides), rtol=1e-6)


def test_turning_every_head_changes_nothing():
    teacher, student = side(2, 3, 0), side(2, 3, 1)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0].astype("float32")
    turned = {name: x @ turn for name, x in student.items()}
    loss = losses.MiniLMRelations()
    np.testing.assert_allclose(call(loss, teacher, turned), call(loss, teacher, student), rtol=1e-4)


@tensorflow_only
def test_an_example_weighs_its_sample_weight_whatever_its_padding():
    from keras_distill.training.term import Term

    teacher, student = side(2, 5, 0), side(2, 3, 1)
    paths = {name: name for name in NAMES}
    term = Term(losses.MiniLMRelations(V1), student=paths, teacher=paths,
                mask=("sample_weight", "input:mask"))  # fmt: skip
    x = {"mask": tensor([[1, 1, 1, 0], [0, 0, 0, 0]])}
    batch = Batch(x=x, labels=None, sample_weight=tensor([3.0, 5.0]), targets=None)
    features = {name: tensor(value) for name, value in student.items()}
    targets = {name: tensor(value) for name, value in teacher.items()}
    values, weights = term(features, targets, batch)
    np.testing.assert_array_equal(weights, [3.0, 0.0])
    assert values[0] > 0 and values[1] == 0


@tensorflow_only
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_huge_projections_are_finite(jit_compile):
    loss, teacher = losses.MiniLMRelations(relation_heads=1), side(4, 3, 0)

    @tf.function(jit_compile=jit_compile)
    def compute(student):
        with tf.GradientTape() as tape:
            tape.watch(student)
            values = loss.call(teacher, student)
        return [values, *tape.gradient(values, student).values()]

    huge = {name: tensor(1e4 * x) for name, x in side(2, 3, 1).items()}
    assert all(np.isfinite(result.numpy()).all() for result in compute(huge))


@pytest.mark.parametrize("heads", [0, -1, 1.5])
def test_relation_heads_are_counted(heads):
    with pytest.raises(ValueError, match=f"`relation_heads` must be .*relation_heads={heads}"):
        losses.MiniLMRelations(relation_heads=heads)


@pytest.mark.parametrize("relations", [[], [("query",)], [("query", "key", 1.0, 2)]])
def test_relations_are_pairs(relations):
    with pytest.raises(ValueError, match="`relations` must list"):
        losses.MiniLMRelations(relations)


@pytest.mark.parametrize(
    "heads, teacher, student",
    [
        (None, (2, 3), (3, 2)),  # unequal heads
        (4, (2, 4), (2, 3)),  # does not divide the student's width
    ],
)
def test_heads_that_do_not_fit_are_refused(heads, teacher, student):
    loss = losses.MiniLMRelations(relation_heads=heads)
    with pytest.raises(ValueError, match="`relation_heads` is needed.*divides both widths"):
        call(loss, side(*teacher, 0), side(*student, 1))
