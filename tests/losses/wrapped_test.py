"""Losses on changed logits."""

import json

import keras
import numpy as np
import pytest
from backends import call

from keras_distill.batch import TopK
from keras_distill.losses import (
    DIST,
    ClassSubset,
    DecoupledKD,
    DistillationLoss,
    KLDivergence,
    Standardized,
)

RANDOM = np.random.default_rng(0)
TEACHER, STUDENT = RANDOM.normal(size=(2, 3, 5)).astype("float32") * 2
LABELS = np.array([2, 0, 4])


def standardized(table):
    return np.array([(row - np.mean(row)) / (np.std(row, ddof=1) + 1e-7) for row in table])


def test_standardized():
    found = call(Standardized(KLDivergence(2.0)), TEACHER, STUDENT)
    expected = call(KLDivergence(2.0), standardized(TEACHER), standardized(STUDENT))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_standardized_forgives_scale_and_shift():
    value = call(Standardized(KLDivergence(2.0)), TEACHER, 7 * TEACHER + 3)
    np.testing.assert_allclose(value, 0, atol=1e-6)


def test_standardized_leaves_out_a_padded_vocabulary():
    padded = [np.pad(x, ((0, 0), (0, 2)), constant_values=-np.inf) for x in (TEACHER, STUDENT)]
    loss = Standardized(KLDivergence(2.0))
    np.testing.assert_allclose(call(loss, *padded), call(loss, TEACHER, STUDENT), rtol=1e-5)


def test_what_the_inner_loss_needs_is_passed_on():
    found = call(Standardized(DecoupledKD()), TEACHER, STUDENT, labels=LABELS)
    sides = standardized(TEACHER), standardized(STUDENT)
    np.testing.assert_allclose(found, call(DecoupledKD(), *sides, labels=LABELS), rtol=1e-5)
    assert Standardized(DIST()).across_batch and not Standardized(DecoupledKD()).across_batch


def test_subset_of_chosen_classes():
    loss = ClassSubset(KLDivergence(), student_classes=[4, 1], teacher_classes=[0, 3])
    expected = call(KLDivergence(), TEACHER[:, [0, 3]], STUDENT[:, [4, 1]])
    np.testing.assert_allclose(call(loss, TEACHER, STUDENT), expected, rtol=1e-6)


def test_subset_of_the_first_classes_both_have():
    loss = ClassSubset(DecoupledKD())
    wide = np.pad(TEACHER, ((0, 0), (0, 3)), constant_values=9.0)
    expected = call(DecoupledKD(), TEACHER, STUDENT, LABELS)
    np.testing.assert_allclose(call(loss, wide, STUDENT, labels=LABELS), expected)
    expected = call(DecoupledKD(), STUDENT, TEACHER, LABELS)
    np.testing.assert_allclose(call(loss, STUDENT, wide, labels=LABELS), expected)


def test_wrapped_losses_are_serialized_with_what_they_wrap():
    loss = Standardized(ClassSubset(KLDivergence(3.0), teacher_classes=[1, 2]), name="both")
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.loss.teacher_classes == [1, 2] and again.loss.loss.temperature == 3.0
    student = STUDENT[:, :2]
    np.testing.assert_allclose(call(again, TEACHER, student), call(loss, TEACHER, student))


@pytest.mark.parametrize("make, message", [
    (lambda: Standardized(DistillationLoss()), "must be a loss on logits"),
    (lambda: ClassSubset(KLDivergence(), [0, 1], [0]), "the same length. Received: 2 and 1"),
    (lambda: ClassSubset(KLDivergence(), [-1]), "`student_classes` must be non-negative"),
    (lambda: ClassSubset(KLDivergence(), teacher_classes=[]), "must be non-negative class ids"),
    (lambda: ClassSubset(DecoupledKD(), [0, 1]), "would renumber"),
    (lambda: call(ClassSubset(KLDivergence(), [5, 1]), TEACHER, STUDENT), "must name"),
    (lambda: call(ClassSubset(KLDivergence(), [1] * 6), TEACHER, STUDENT), "must name"),
    (lambda: call(Standardized(KLDivergence()), TopK(1, 2, 3), STUDENT), "needs the teacher's"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Tokenizer:
    """The least that a tokenizer must have."""

    def __init__(self, vocabulary, **special):
        self.vocabulary = vocabulary
        vars(self).update(special)

    def get_vocabulary(self):
        return self.vocabulary

    def token_to_id(self, token):
        return self.vocabulary.index(token)


def test_a_permuted_and_padded_vocabulary_is_mapped_by_its_tokens():
    ours = Tokenizer(["cat", "sat", "</s>"], end_token="</s>")
    theirs = Tokenizer(["[SEP]", "sat", "mat", "cat"], sep_token="[SEP]")
    with pytest.warns(UserWarning, match=r"0.0% of the student's 3 .* 25.0%.* 4 tokens are not in"):
        loss = ClassSubset.from_tokenizers(DecoupledKD(), ours, theirs)
    found = loss.call(TEACHER, STUDENT, labels=LABELS[:2].repeat([1, 2]) % 3)
    sides = TEACHER[:, [3, 1, 0]], STUDENT[:, :3]  # the fourth and fifth classes are padding
    expected = DecoupledKD().call(*sides, labels=LABELS[:2].repeat([1, 2]) % 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_same_tokens_in_another_order_lose_none(recwarn):
    ours, theirs = Tokenizer(["a", "b", "c", "d", "e"]), Tokenizer(["c", "e", "a", "b", "d"])
    loss = ClassSubset.from_tokenizers(KLDivergence(), ours, theirs)
    places = [2, 3, 0, 4, 1]
    expected = call(KLDivergence(), TEACHER[:, places], STUDENT)
    np.testing.assert_allclose(call(loss, TEACHER, STUDENT), expected, rtol=1e-6)
    assert not [warning for warning in recwarn.list if "tokens" in str(warning.message)]


def test_tokenizers_without_a_common_token_are_refused():
    with pytest.raises(ValueError, match=r"100.0% of the student's 1 tokens.*UniversalLogits"):
        ClassSubset.from_tokenizers(KLDivergence(), Tokenizer(["a"]), Tokenizer(["b"]))
