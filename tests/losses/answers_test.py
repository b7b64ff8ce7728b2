"""Labels, agreement and probabilities, as all that looks at answers takes them."""

import numpy as np
import pytest
from backends import array, tensor

from keras_distill.losses import answers

LOGITS = np.zeros((2, 3, 4), "float32")
IDS = np.array([[0, 3, 1], [2, 2, 0]])


@pytest.mark.parametrize(
    "labels", [IDS, IDS[..., None], np.eye(4, dtype="float32")[IDS], IDS.astype("float32")],
    ids=["ids", "a column", "one-hot", "floats"],
)  # fmt: skip
def test_labels_become_class_ids(labels):
    found = array(answers.class_ids(tensor(labels), tensor(LOGITS)))
    assert found.dtype == "int32"
    np.testing.assert_array_equal(found, IDS)


def test_labels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"`mine` needs one class id .* labels of shape \(2,\)"):
        answers.class_ids(tensor(np.zeros(2)), tensor(LOGITS), "mine")


def test_one_class_is_no_one_hot():
    ids = array(answers.class_ids(tensor([[1.0], [0.0]]), tensor([[0.3], [0.1]])))
    np.testing.assert_array_equal(ids, [1, 0])


@pytest.mark.parametrize(
    "value, are",
    [
        ([[0.5, 0.5], [1.0, 0.0]], True),
        ([[0.501, 0.501], [1.0, 0.0]], True),  # rounded to half precision
        ([[0.52, 0.5], [1.0, 0.0]], False),
        ([[1.5, -0.5], [1.0, 0.0]], False),
        ([[1.0], [1.0]], False),
        ([0.5, 0.5], False),
        (np.zeros((0, 2)), False),
    ],
)
def test_what_sums_to_one_is_probabilities(value, are):
    assert answers.are_probabilities(np.array(value, "float32")) is are
