"""A temperature for each example: its values are those of the example alone at that temperature."""

import json

import keras
import numpy as np
import pytest
from backends import array, tensor, value_and_gradients

from keras_distill import losses

RANDOM = np.random.default_rng(0)
TEACHER, STUDENT = RANDOM.normal(size=(2, 3, 5)).astype("float32") * 2
LABELS = np.array([0, 3, 1])
EACH = np.array([0.5, 2.0, 40.0], "float32")
PATH = "input:temperature"
# Those whose values depend on the batch have a test of their own.
MADE = {
    "KLDivergence": losses.KLDivergence,
    "ReverseKL": losses.ReverseKL,
    "SymmetricKL": lambda T: losses.SymmetricKL(temperature=T),
    "JensenShannon": lambda T: losses.JensenShannon(temperature=T),
    "TotalVariation": losses.TotalVariation,
    "SkewedKL": lambda T: losses.SkewedKL(temperature=T),
    "SkewedReverseKL": lambda T: losses.SkewedReverseKL(temperature=T),
    "SoftCrossEntropy": losses.SoftCrossEntropy,
    "BinaryKLDivergence": losses.BinaryKLDivergence,
    "LogitsMSE": losses.LogitsMSE,
    "DecoupledKD": lambda T: losses.DecoupledKD(temperature=T),
    "NormalizedKD": lambda T: losses.NormalizedKD(temperature=T),
    "WeightedSoftLabels": losses.WeightedSoftLabels,
    "UniversalLogits": losses.UniversalLogits,
    "CollaborativeKL": lambda T: losses.CollaborativeKL("mean", T),
    "Standardized": lambda T: losses.Standardized(losses.KLDivergence(T)),
    "ClassSubset": lambda T: losses.ClassSubset(losses.KLDivergence(T), [0, 2], [0, 2]),
    "PixelWise": lambda T: losses.PixelWise(T, variant="code"),
    "ChannelWise": losses.ChannelWise,
}


def called(loss, teacher, student, labels=LABELS, **extras):
    if isinstance(loss, losses.CollaborativeKL):
        teacher = np.stack([teacher, teacher])
    if isinstance(loss, (losses.PixelWise, losses.ChannelWise)):  # maps of one row
        teacher, student = teacher[:, None, None], student[:, None, None]
        teacher, student = (np.concatenate([side, 2 * side], 1) for side in (teacher, student))
    extras |= {"labels": tensor(labels)} if "labels" in loss.needs else {}
    return array(loss.call(tensor(teacher), tensor(student), **extras))


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
@pytest.mark.parametrize("name", MADE)
def test_each_example_has_its_own(name, shape):
    loss = MADE[name](PATH)
    assert loss.reads == {"temperature": PATH}
    found = called(loss, TEACHER, STUDENT, temperature=tensor(EACH.reshape(shape)))
    for row, temperature in enumerate(EACH):
        one = slice(row, row + 1)
        alone = called(MADE[name](float(temperature)), TEACHER[one], STUDENT[one], LABELS[one])
        np.testing.assert_allclose(found[one], alone, rtol=1e-4, atol=1e-6)


def test_correlations_over_the_batch_take_it_too():
    found = called(losses.DIST(temperature=PATH), TEACHER, STUDENT, temperature=tensor(EACH))
    softened = [np.exp(side / EACH[:, None]) for side in (TEACHER, STUDENT)]
    p, q = (side / side.sum(-1, keepdims=True) for side in softened)
    rows = np.array([np.corrcoef(p[i], q[i])[0, 1] for i in range(3)])
    columns = np.mean([np.corrcoef(p[:, c], q[:, c])[0, 1] for c in range(5)])
    np.testing.assert_allclose(found, EACH**2 * (2 - rows - columns), rtol=1e-3)


@pytest.mark.parametrize("shape", [(2,), (2, 1), (2, 3), (2, 3, 1)])
def test_of_tokens_one_for_each_example_or_each_token(shape):
    teacher, student = RANDOM.normal(size=(2, 2, 3, 5)).astype("float32")
    temperatures = RANDOM.uniform(0.5, 4.0, size=shape).astype("float32")
    found = array(losses.KLDivergence(PATH).call(
        tensor(teacher), tensor(student), temperature=tensor(temperatures)
    ))  # fmt: skip
    of_tokens = np.broadcast_to(temperatures.reshape(2, -1), (2, 3))
    for place in np.ndindex(2, 3):
        loss = losses.KLDivergence(float(of_tokens[place]))
        alone = array(loss.call(tensor(teacher[place][None]), tensor(student[place][None])))
        np.testing.assert_allclose(found[place], alone[0], rtol=1e-4, atol=1e-6)


def test_its_gradient_is_the_slope():
    """Of a temperature that a layer learns, as a curriculum does."""
    loss = losses.KLDivergence(PATH)
    found = value_and_gradients(
        lambda inputs: keras.ops.sum(
            loss.call(tensor(TEACHER), tensor(STUDENT), temperature=inputs["temperature"])
        ),
        {"temperature": tensor(EACH)},
    )[1]["temperature"]
    teacher, student = TEACHER.astype("float64"), STUDENT.astype("float64")
    for row, temperature in enumerate(EACH.astype("float64")):
        ends = []
        for at in (temperature * 1.001, temperature * 0.999):
            p, q = (np.exp(side[row] / at) for side in (teacher, student))
            p, q = p / p.sum(), q / q.sum()
            ends.append(at**2 * (p * np.log(p / q)).sum())
        slope = (ends[0] - ends[1]) / (0.002 * temperature)
        np.testing.assert_allclose(array(found)[row], slope, rtol=1e-2, atol=1e-3)


def test_what_is_not_positive_is_seen():
    each = tensor(np.array([1.0, 0.0, -2.0], "float32"))
    found = called(losses.KLDivergence(PATH), TEACHER, STUDENT, temperature=each)
    assert np.isfinite(found[0]) and np.isnan(found[1:]).all()


def test_without_it_the_loss_says_where_it_stands():
    with pytest.raises(ValueError, match="needs the value of its temperature `input:temp"):
        called(losses.KLDivergence(PATH), TEACHER, STUDENT)


def test_the_path_is_saved():
    loss = losses.Standardized(losses.DecoupledKD(temperature="coach/temperature"))
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.reads == {"temperature": "coach/temperature"} and again.needs == ("labels",)
