"""Losses between models with different tokenizers."""

import numpy as np
import pytest
from backends import call

from keras_distill.batch import TopK
from keras_distill.losses import (
    DIST,
    AlignedSpans,
    ClassSubset,
    DecoupledKD,
    KLDivergence,
    UniversalLogits,
)

RANDOM = np.random.default_rng(0)
TEACHER = RANDOM.normal(size=(2, 4, 6)).astype("float32") * 2
STUDENT = RANDOM.normal(size=(2, 5, 3)).astype("float32") * 2
SPANS = np.array([[1, 2, 2, 3], [1, 1, 0, 2]])
STUDENT_SPANS = np.array([[1, 1, 2, 3, 0], [1, 2, 2, 3, 3]])


def softmax(row):
    e = np.exp(row - np.max(row))
    return e / e.sum()


def distance(teacher, student):
    p, q = sorted(softmax(teacher), reverse=True), sorted(softmax(student), reverse=True)
    size = max(len(p), len(q))
    p, q = (list(side) + [0.0] * (size - len(side)) for side in (p, q))
    return sum(abs(one - other) for one, other in zip(p, q))


@pytest.mark.parametrize("wide", [TEACHER, TEACHER[..., :2]])
def test_universal_logits(wide):
    found = UniversalLogits(2.0).call(wide, STUDENT[:, :4])
    expected = [[distance(t / 2, s / 2) for t, s in zip(*rows)] for rows in zip(wide, STUDENT)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_names_of_classes_do_not_matter():
    found = UniversalLogits().call(TEACHER, TEACHER[..., ::-1])
    np.testing.assert_allclose(found, 0, atol=1e-6)


def test_places_that_do_not_fit():
    with pytest.raises(ValueError, match=r"token by token.*AlignedSpans.*2, 4, 6.*2, 5, 3"):
        UniversalLogits().call(TEACHER, STUDENT)


def targets(**others):
    return {"logits": TEACHER, "spans": SPANS, "student_spans": STUDENT_SPANS, **others}


def by_hand(loss, merge, mask):
    """The mean over spans that are on both sides and whose student's tokens all count."""
    values = []
    for example in range(2):
        found = []
        for span in range(1, 4):
            rows = [
                [i for i, number in enumerate(side[example]) if number == span]
                for side in (STUDENT_SPANS, SPANS)
            ]
            if not all(rows) or not all(mask[example][i] for i in rows[0]):
                continue
            student, teacher = (
                merge([np.log(softmax(side[example][i])) for i in places], axis=0)
                for side, places in zip((STUDENT, TEACHER), rows)
            )
            found.append(loss(teacher, student))
        values.append(np.mean(found) if found else 0.0)
    return values


@pytest.mark.parametrize("merge, function", [("mean", np.mean), ("product", np.sum)])
def test_aligned_spans(merge, function):
    mask = np.ones((2, 5))
    found = AlignedSpans(UniversalLogits(), merge).call(targets(), STUDENT)
    np.testing.assert_allclose(found, by_hand(distance, function, mask), rtol=1e-5)
    mask[1, 2] = 0  # span 2 of the second example is not whole
    hidden = STUDENT.copy()
    hidden[1, 2] = np.nan
    found = AlignedSpans(UniversalLogits(), merge).call(targets(), hidden, mask=mask)
    np.testing.assert_allclose(found, by_hand(distance, function, mask), rtol=1e-5)


def test_tokens_cut_alike_are_compared_one_by_one():
    places = np.tile(np.arange(1, 5), (2, 1))
    student = STUDENT[:, :4]
    loss = ClassSubset(KLDivergence(2.0), teacher_classes=[5, 0, 3])
    found = AlignedSpans(loss).call(targets(spans=places, student_spans=places), student)
    expected = np.mean(call(loss, TEACHER, student), -1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_without_a_common_span_it_is_zero():
    nothing = targets(spans=np.zeros_like(SPANS))
    np.testing.assert_array_equal(AlignedSpans(UniversalLogits()).call(nothing, STUDENT), [0, 0])


def test_spans_enter_the_inner_loss_as_its_mask():
    same = {"logits": STUDENT[:, :3], "spans": SPANS[:, :3], "student_spans": SPANS[:, :3]}
    found = AlignedSpans(DIST()).call(same, STUDENT[:, :3])
    np.testing.assert_allclose(found, 0, atol=1e-5)


def test_what_is_refused():
    with pytest.raises(ValueError, match="label"):
        AlignedSpans(DecoupledKD())
    with pytest.raises(ValueError, match="merge.*median"):
        AlignedSpans(UniversalLogits(), merge="median")
    with pytest.raises(ValueError, match="TopK"):
        AlignedSpans(UniversalLogits()).call(targets(logits=TopK(1, 2, 3)), STUDENT)
