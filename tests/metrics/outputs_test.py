"""Agreement and divergence from a teacher against plain loops, over batches and with weights."""

import json
import math

import keras
import numpy as np
import pytest
from backends import tensor

from keras_distill import metrics

RANDOM = np.random.default_rng(0)
TEACHER, STUDENT = RANDOM.normal(size=(2, 7, 5)).astype("float32")
WEIGHTS = np.array([1, 0, 2, 0.5, 1, 1, 3], "float32")


def probabilities(row):
    powers = [math.exp(float(z) - max(map(float, row))) for z in row]
    return [power / sum(powers) for power in powers]


def agreement(t, s):
    return float(max(range(len(t)), key=t.__getitem__) == max(range(len(s)), key=s.__getitem__))


def kl(t, s):
    return sum(a * math.log(a / b) for a, b in zip(probabilities(t), probabilities(s)))


KINDS = [(metrics.Agreement, agreement), (metrics.KLToTeacher, kl)]


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["all alike", "weighted"])
@pytest.mark.parametrize("kind, formula", KINDS)
def test_it_is_the_weighted_mean_over_all_batches(kind, formula, weights):
    metric = kind()
    for rows in (slice(0, 3), slice(3, 7)):
        given = None if weights is None else weights[rows]
        metric.update_state(tensor(TEACHER[rows]), tensor(STUDENT[rows]), sample_weight=given)
    values = [formula(t, s) for t, s in zip(TEACHER, STUDENT)]
    expected = np.average(values, weights=weights)
    np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-5)
    metric.reset_state()
    metric.update_state(TEACHER[:1], STUDENT[:1])
    np.testing.assert_allclose(float(metric.result()), values[0], rtol=1e-5)


@pytest.mark.parametrize("kind, formula", KINDS)
def test_rows_of_weight_zero_may_hold_anything(kind, formula):
    teacher = np.where(WEIGHTS[:, None] > 0, TEACHER, np.nan)
    metric = kind()
    metric.update_state(teacher, STUDENT, sample_weight=WEIGHTS[:, None])
    values = [formula(t, s) for t, s in zip(TEACHER, STUDENT)]
    np.testing.assert_allclose(
        float(metric.result()), np.average(values, weights=WEIGHTS), rtol=1e-5
    )


@pytest.mark.parametrize("kind, formula", KINDS)
def test_tokens_are_rows(kind, formula):
    teacher, student = RANDOM.normal(size=(2, 3, 4, 5)).astype("float32")
    weights = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 2]], "float32")
    metric = kind()
    metric.update_state(teacher, student, sample_weight=weights)
    values = [[formula(t, s) for t, s in zip(*pair)] for pair in zip(teacher, student)]
    np.testing.assert_allclose(
        float(metric.result()), np.average(values, weights=weights), rtol=1e-5
    )


@pytest.mark.parametrize("kind", [metrics.Agreement, metrics.KLToTeacher, metrics.CKA])
def test_it_is_saved_by_its_config(kind):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(kind(name="near"))))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is kind and again.name == "near"


@pytest.mark.parametrize("kind, formula", KINDS)
def test_other_classes_are_refused(kind, formula):
    with pytest.raises(ValueError, match=r"teacher \(7, 5\), student \(7, 4\)"):
        kind().update_state(TEACHER, STUDENT[:, :4])
