"""Keras's own losses, wrapped into distillation losses, and what the base class documents."""

import inspect
import json
import re

import keras
import numpy as np
import pytest
from backends import array, call, tensor

from keras_distill import losses
from keras_distill.losses.plain import KerasLoss, argument_of

TEACHER, STUDENT = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")


@pytest.mark.parametrize(
    "loss", ["mse", keras.losses.MeanSquaredError(), keras.losses.mean_squared_error]
)
def test_a_loss_of_keras_becomes_one_that_declares_what_it_needs(loss):
    found = losses.as_distillation_loss(loss)
    assert isinstance(found, losses.DistillationLoss) and found.name == "mean_squared_error"
    assert found.needs == () and found.reads == {} and not found.stateful
    expected = [np.mean((s - t) ** 2) for t, s in zip(TEACHER, STUDENT)]
    np.testing.assert_allclose(call(found, TEACHER, STUDENT), expected, rtol=1e-6)


def test_a_loss_of_our_own_stays_as_it_is():
    loss = losses.Hint()
    assert losses.as_distillation_loss(loss) is loss


def test_the_wrapper_is_saved_with_the_loss():
    inner = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.5)
    loss = losses.as_distillation_loss(inner)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    again = keras.saving.deserialize_keras_object(config)
    assert isinstance(again, KerasLoss) and again.name == loss.name
    np.testing.assert_array_equal(call(again, TEACHER, STUDENT), call(loss, TEACHER, STUDENT))


@pytest.mark.parametrize("loss", ["kl_divergence", keras.losses.KLDivergence()])
def test_keras_kl_divergence_is_refused(loss):
    with pytest.raises(ValueError, match="takes probabilities and clips them"):
        losses.as_distillation_loss(loss)


def test_what_is_no_loss_is_refused():
    with pytest.raises(TypeError, match="must be a Keras loss or its name. Received: loss=None"):
        losses.as_distillation_loss(None)


def test_the_example_of_the_base_class_runs():
    example = re.search(r"```python\n(.*?)```", inspect.getdoc(losses.DistillationLoss), re.DOTALL)
    scope = {}
    exec(example[1], scope)
    assert array(scope["values"]).tolist() == [0.0] * 4
    loss = scope["CentredError"](power=3)
    assert loss.name == "centred_error" and loss.get_config()["power"] == 3
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.power == 3
    weights = np.array([1, 1, 0, 1], "float32")
    found = array(loss.call(tensor(TEACHER), tensor(STUDENT), mask=tensor(weights)))
    ours, theirs = (side - side[weights > 0].mean(0) for side in (STUDENT, TEACHER))
    np.testing.assert_allclose(found, np.mean(np.abs(ours - theirs) ** 3, -1), rtol=1e-5)


@pytest.mark.parametrize(
    "dtype, computes", [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32"),
                        ("mixed_float16", "float32"), ("float64", "float64")]  # fmt: skip
)
def test_a_loss_computes_in_float32_or_wider(dtype, computes):
    loss = losses.Cosine(dtype=dtype)
    assert loss.dtype == computes
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.dtype == computes


def test_a_loss_follows_floatx():
    before = keras.config.floatx()
    try:
        keras.config.set_floatx("float64")
        assert losses.KLDivergence().dtype == losses.as_distillation_loss("mse").dtype == "float64"
    finally:
        keras.config.set_floatx(before)


class Configured(keras.losses.Loss):
    """Keeps its argument in the configuration alone, as losses of Keras 3.16 do."""

    def get_config(self):
        return {**super().get_config(), "from_logits": True}


def test_an_argument_of_a_loss_is_found_wherever_keras_keeps_it():
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=3)
    assert argument_of(cross_entropy, "from_logits", False) is True
    assert argument_of(cross_entropy, "ignore_class", None) == 3
    assert argument_of(Configured(), "from_logits", False) is True
    assert argument_of(keras.losses.MeanSquaredError(), "from_logits", False) is False
    assert argument_of(keras.losses.mean_squared_error, "from_logits", False) is False
