"""Losses on the teacher's order, against loops over pairs."""

import math

import numpy as np
import pytest
from backends import call

from keras_distill.batch import TopK
from keras_distill.losses import HingeRanking, LogisticRanking

RANDOM = np.random.default_rng(0)
STUDENT = RANDOM.normal(size=(2, 3, 6)).astype("float32") * 2
IDS = np.argsort(RANDOM.normal(size=(2, 3, 6)), -1)[..., :3]
LOG_PROBS = np.log(np.tile([0.5, 0.3, 0.1], (2, 3, 1))).astype("float32")
LOG_PROBS[0, 0, 1] = LOG_PROBS[0, 0, 0]  # a tie prefers neither
TARGET = TopK(IDS, LOG_PROBS, np.full((2, 3), math.log(0.1), "float32"))
MASK = np.array([[1, 1, 0], [1, 0, 0]], "float32")


def over_pairs(score, of_pair):
    losses = []
    for row in zip(*(side[MASK > 0].tolist() for side in (IDS, LOG_PROBS, STUDENT))):
        ids, log_probs, logits = row
        scores, p = score(logits), [math.exp(one) for one in log_probs]
        for a, p_a in zip(ids, p):
            for b, p_b in zip(ids, p):
                if p_a > p_b + 1e-9:
                    losses.append(of_pair(scores[a] - scores[b], p_a - p_b))
    return sum(losses) / len(losses)


def mean(loss):
    values = np.array(call(loss, TARGET, STUDENT, mask=MASK))
    return (values * MASK).sum() / MASK.sum()


def softmax(row):
    powers = [math.exp(one) for one in row]
    return [power / sum(powers) for power in powers]


def test_logistic_ranking():
    expected = over_pairs(list, lambda gap, _: math.log1p(math.exp(-gap)))
    np.testing.assert_allclose(mean(LogisticRanking()), expected, rtol=1e-5)


@pytest.mark.parametrize("margin", [None, 0.2])
def test_hinge_ranking(margin):
    expected = over_pairs(softmax, lambda gap, own: max(0, (margin or own) - gap))
    np.testing.assert_allclose(mean(HingeRanking(margin)), expected, rtol=1e-5)


def test_all_classes_as_logits_are_all_as_top_k():
    teacher = RANDOM.normal(size=(2, 3, 6)).astype("float32")
    log_probs = teacher - np.log(np.exp(teacher).sum(-1, keepdims=True))
    ids = np.tile(np.arange(6), (2, 3, 1))
    sparse = call(LogisticRanking(), TopK(ids, log_probs, None), STUDENT)
    np.testing.assert_allclose(call(LogisticRanking(), teacher, STUDENT), sparse, rtol=1e-5)


def test_without_a_preference_it_is_zero():
    even = np.zeros((2, 3, 6), "float32")
    assert not np.any(call(LogisticRanking(), even, STUDENT))


def test_margin_is_a_probability():
    with pytest.raises(ValueError, match=r"`margin` must be in \[0, 1\]. Received: margin=2"):
        HingeRanking(2)
