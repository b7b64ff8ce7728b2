"""Each task's measure against a plain loop, and which task is seen in which data."""

import math

import numpy as np
import pytest

from keras_distill.report import tasks

RANDOM = np.random.default_rng(0)
NONE = np.zeros((1, 1))


def value(task, found, y, weights):
    return task.value(task.sums(found, y, weights).sum(0))


def softmax(z):
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def test_what_the_first_batch_shows():
    def name(outputs, y, x=NONE):
        return tasks.task_of(np.asarray(outputs, float), np.asarray(y), np.asarray(x)).name

    logits, tokens = RANDOM.normal(size=(4, 3)), RANDOM.integers(0, 9, (4, 6))
    assert name(logits, [0, 2, 1, 1]) == name(logits, [[0], [2], [1], [1]]) == "classes"
    assert name(logits, [[0.0], [2.0], [1.0], [1.0]]) == "classes"
    assert name(logits, np.eye(3)[[0, 1, 2, 0]]) == "classes"
    assert name(logits, [[0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]]) == "labels"
    assert name(logits, RANDOM.normal(size=(4, 3))) == "numbers"
    assert name(RANDOM.normal(size=(4, 1)), [0, 1, 1, 0]) == "classes"
    assert name(RANDOM.normal(size=(4, 1)), [[0.5], [1], [1], [0]]) == "numbers"
    assert name(RANDOM.normal(size=(4,)), [0.5, 1, 1, 0]) == "numbers"
    shown = RANDOM.normal(size=(4, 6, 9))
    assert name(shown, np.roll(tokens, -1, 1), tokens) == "language"
    assert name(shown, tokens, tokens) == "classes"
    with pytest.raises(ValueError, match="`task` must be one of"):
        tasks.task_of(logits, np.zeros(4), NONE, "ranking")


def test_classes_of_tokens_with_weights():
    logits, y = RANDOM.normal(size=(3, 5, 4)), RANDOM.integers(0, 4, (3, 5))
    weights = RANDOM.integers(0, 3, (3, 5)).astype(float)
    y_masked = np.where(weights > 0, y, -1)  # what counts nothing may hold anything
    right = nll = count = 0.0
    for i in range(3):
        for t in range(5):
            p = softmax(logits[i, t])
            right += weights[i, t] * (p.argmax() == y[i, t])
            nll -= weights[i, t] * math.log(p[y[i, t]])
            count += weights[i, t]
    expected_by = {tasks.Classes: right / count, tasks.NextToken: math.exp(nll / count)}
    for kind, expected in expected_by.items():
        task = kind(logits)
        assert value(task, task.answers(logits), y_masked, weights) == pytest.approx(expected)
        sums = task.sums(task.answers(softmax(logits)), y_masked, weights)
        assert task.measures(sums.sum(0))["nll"] == pytest.approx(nll / count)
    with pytest.raises(ValueError, match=r"integers in \[0, 4\)"):
        task.sums(task.answers(logits), y + 4, weights)


def test_one_answer_is_two_classes():
    logits, y = RANDOM.normal(size=(20, 1)), RANDOM.integers(0, 2, 20)
    task = tasks.Classes(logits)
    found = task.answers(logits)
    p = 1 / (1 + np.exp(-logits[:, 0]))
    np.testing.assert_allclose(np.exp(found[:, 1]), p)
    np.testing.assert_allclose(task.answers(p[:, None]), found)
    assert value(task, found, y, np.ones(20)) == np.mean((p > 0.5) == y)


def test_likeness_of_classes():
    ours, theirs = RANDOM.normal(size=(2, 12, 7))
    task, kl, agree, shared = tasks.Classes(ours), 0.0, 0, 0.0
    for a, b in zip(softmax(ours), softmax(theirs)):
        kl += sum(q * math.log(q / p) for p, q in zip(a, b)) / 12
        agree += (a.argmax() == b.argmax()) / 12
        shared += len({*np.argsort(-a)[:5]} & {*np.argsort(-b)[:5]}) / 5 / 12
    sums = task.likeness(task.answers(ours), task.answers(theirs), np.ones(12))
    expected = {"agreement": agree, "top_5_agreement": shared, "kl_to_teacher": kl}
    assert task.likenesses(sums.sum(0)) == pytest.approx(expected, rel=1e-5)


def test_labels_by_micro_f1():
    logits, y = RANDOM.normal(size=(15, 4)), RANDOM.integers(0, 2, (15, 4))
    task = tasks.Labels(logits)
    tp = fp = fn = 0
    for z, true in zip(logits.ravel(), y.ravel()):
        tp, fp, fn = tp + (z > 0 and true), fp + (z > 0 and not true), fn + (z <= 0 and true)
    found = task.answers(logits)
    assert value(task, found, y, np.ones(15)) == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert task.likenesses(task.likeness(found, found, np.ones(15)).sum(0)) == {
        "agreement": 1, "kl_to_teacher": pytest.approx(0)}  # fmt: skip
    sure, right, label = task.rows(found, y, np.ones(15))
    assert len(sure) == 60 and sure.min() >= 0.5 and {*label} == {0, 1, 2, 3}
    assert right.mean() == np.mean((logits > 0) == y)


@pytest.mark.parametrize("width", [1, 3])
def test_numbers_by_r_squared(width):
    y = RANDOM.normal(size=(25, width)) * [1, 5, 9][:width]
    found = y + RANDOM.normal(size=y.shape)
    task = tasks.Numbers(found)
    expected = []
    for column in range(width):
        error = sum((a - b) ** 2 for a, b in zip(y[:, column], found[:, column]))
        mean = sum(y[:, column]) / 25
        expected.append(1 - error / sum((a - mean) ** 2 for a in y[:, column]))
    sums = task.sums(task.answers(found), y, np.ones(25))
    assert task.value(sums.sum(0)) == pytest.approx(np.mean(expected))
    measures = task.measures(sums.sum(0))
    assert measures["mean_absolute_error"] == pytest.approx(np.abs(y - found).mean())
    assert measures["root_mean_square_error"] == pytest.approx(np.sqrt(((y - found) ** 2).mean()))
    alike = task.sums(task.answers(found), np.ones_like(y), np.ones(25)).sum(0)
    assert np.isnan(task.value(alike))  # targets that are all alike have no variance to explain
