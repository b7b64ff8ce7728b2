"""Losses for quantities, against loops."""

import numpy as np
import pytest
from backends import call

from keras_distill.losses import TeacherBoundedRegression

RANDOM = np.random.default_rng(0)
TEACHER, STUDENT, LABELS = RANDOM.normal(size=(3, 20, 2)).astype("float32")


@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_teacher_bounded_regression(margin):
    expected = []
    for t, s, y in zip(TEACHER.tolist(), STUDENT.tolist(), LABELS.tolist()):
        of_teacher, of_student = (sum((a - b) ** 2 for a, b in zip(side, y)) for side in (t, s))
        expected.append(of_student if of_student + margin > of_teacher else 0.0)
    assert 0.0 in expected
    found = call(TeacherBoundedRegression(margin), TEACHER, STUDENT, LABELS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_labels_of_width_one_may_lack_the_axis():
    loss = TeacherBoundedRegression()
    sides = TEACHER[:, :1], STUDENT[:, :1]
    np.testing.assert_allclose(call(loss, *sides, LABELS[:, 0]), call(loss, *sides, LABELS[:, :1]))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="`margin` must be non-negative"):
        TeacherBoundedRegression(-1)
    for labels in (None, LABELS[:, 0], LABELS[None]):
        with pytest.raises(ValueError, match="needs `labels`"):
            call(TeacherBoundedRegression(), TEACHER, STUDENT, labels)
