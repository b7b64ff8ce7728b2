"""How an exported model's answers are judged, for each kind of answer."""

import numpy as np
import pytest

from keras_distill.export import parity

IDS = np.array([0, 2, 1, 2])
CLASSES = np.eye(3, dtype="float32")[[0, 2, 1, 1]]
FLIPPED = np.eye(3, dtype="float32")[[1, 2, 1, 1]]
YES = np.array([[2.0], [-1.0], [0.5], [-3.0]], "float32")
PROBABLE = 1 / (1 + np.exp(-YES))
MANY = np.concatenate([YES, -YES], -1)


@pytest.mark.parametrize("found, expected, targets, agreement, student, exported", [
    (FLIPPED, CLASSES, IDS, 0.75, 0.75, 0.5),
    (FLIPPED, CLASSES, IDS.astype("float32")[:, None], 0.75, 0.75, 0.5),
    (FLIPPED, CLASSES, np.eye(3)[IDS], 0.75, 0.75, 0.5),
    (YES - 1, YES, np.array([1, 0, 1, 1]), 0.75, 0.75, 0.5),
    (PROBABLE - 0.2, PROBABLE, np.array([[1], [0], [1], [1]]), 0.75, 0.75, 0.5),
    (MANY - 1, MANY, np.array([[1, 0], [0, 1], [1, 0], [0, 0]]), 7 / 8, 7 / 8, 6 / 8),
])  # fmt: skip
def test_answers_are_compared_with_the_student_and_the_truth(
    found, expected, targets, agreement, student, exported
):
    result = parity.compared({"output": found}, expected, targets)
    assert result[1:5] == (pytest.approx(agreement), "accuracy", student, exported)


def test_numbers_are_judged_by_their_errors():
    result = parity.compared({"output": YES + 0.5}, YES, YES[:, 0] + 1)
    assert result[:5] == (0.5, None, "mean_absolute_error", 1.0, 0.5)
    assert result.distance == pytest.approx(0.5 / np.std(YES))
    assert "27.0% of their standard deviation" in parity.judged(result, False, 0, 0.9)
    assert parity.judged(result, False, 0, 0.7) is None
    several = parity.compared({"output": MANY[::-1]}, MANY, MANY)
    assert several.agreement is None and several.metric == "mean_absolute_error"


def test_without_targets_only_classes_agree():
    assert parity.compared({"output": FLIPPED}, CLASSES) == (1.0, 0.75, *[None] * 4)
    assert parity.compared({"output": YES}, YES).agreement is None
