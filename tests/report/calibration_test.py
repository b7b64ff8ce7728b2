"""Groups of as many answers, and the error over bins of equal width."""

import numpy as np
import pytest

from keras_distill.report.calibration import calibration_error, equal_counts


def test_groups_hold_as_many_answers():
    sure = np.random.default_rng(0).random(103)
    right = np.random.default_rng(1).random(103) < sure
    found = equal_counts(sure, right, groups=5)
    assert sum(found["count"]) == 103 and max(found["count"]) - min(found["count"]) <= 1
    order, start = np.argsort(sure), 0
    for count, confidence, accuracy in zip(found["count"], found["confidence"], found["accuracy"]):
        rows, start = order[start : start + count], start + count
        assert (confidence, accuracy) == pytest.approx((sure[rows].mean(), right[rows].mean()))


def test_equally_sure_answers_stay_together():
    found = equal_counts(np.array([0.5, 1.0, 1.0, 1.0, 1.0, 1.0]), np.ones(6, bool), groups=3)
    assert found["count"] == [1, 5] or found["count"] == [6]
    assert found["accuracy"] == [1] * len(found["count"])
    assert equal_counts(np.array([0.7]), np.array([False]))["count"] == [1]


def test_the_error_is_a_plain_loops():
    sure = np.random.default_rng(2).random(200)
    right = np.random.default_rng(3).random(200) < 0.5
    error = 0.0
    for b in range(15):
        inside = [i for i in range(200) if b / 15 < sure[i] <= (b + 1) / 15]
        if inside:
            error += abs(sum(right[inside]) - sum(sure[inside])) / 200
    assert calibration_error(sure, right) == pytest.approx(error)
