"""A temperature of each example, from the batch or from a layer that learns it."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill import Distiller, Term, losses

RANDOM = np.random.default_rng(0)
SIZES = {"x": 4, "temperature": 1}
X = RANDOM.normal(size=(16, 4)).astype("float32")
EACH = RANDOM.uniform(0.5, 4.0, size=(16, 1)).astype("float32")


def kl(teacher, student, temperature):
    p, q = (np.exp(side.astype("float64") / temperature) for side in (teacher, student))
    p, q = (side / side.sum(-1, keepdims=True) for side in (p, q))
    return temperature[:, 0] ** 2 * (p * np.log(p / q)).sum(-1)


def net():
    return keras.Sequential([keras.Input((4,)), layers.Dense(3)])


def values_of(model, x):
    return keras.ops.convert_to_numpy(model(x))


def test_it_is_read_in_the_batch():
    inputs = {name: keras.Input((size,), name=name) for name, size in SIZES.items()}
    student = keras.Model(inputs, layers.Dense(3)(inputs["x"]))
    teacher = keras.Model(inputs, layers.Dense(3)(inputs["x"]))
    data = {"x": X, "temperature": EACH}
    expected = kl(values_of(teacher, data), values_of(student, data), EACH).mean()
    loss = losses.KLDivergence("input:temperature")
    distiller = Distiller(student, teacher=teacher, terms=[Term(loss, name="kd")])
    distiller.compile(keras.optimizers.SGD(0.0))
    found = distiller.fit(data, batch_size=16, verbose=0).history["kd"][0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_masked_examples_may_have_any():
    inputs = {name: keras.Input((size,), name=name) for name, size in SIZES.items()}
    student = keras.Model(inputs, layers.Dense(3)(inputs["x"]))
    teacher = keras.Model(inputs, layers.Dense(3)(inputs["x"]))
    weight = np.arange(16) % 2
    each = np.where(weight[:, None] > 0, EACH, 0.0)
    data = {"x": X, "temperature": each}
    values = kl(values_of(teacher, data), values_of(student, data), EACH)
    loss = losses.KLDivergence("input:temperature")
    distiller = Distiller(student, teacher=teacher, terms=[Term(loss, name="kd")])
    distiller.compile(keras.optimizers.SGD(0.1))
    logs = distiller.fit(data, sample_weight=weight, batch_size=16, verbose=0).history
    np.testing.assert_allclose(logs["kd"][0], values[weight > 0].mean(), rtol=1e-4)
    assert all(np.isfinite(part).all() for part in student.get_weights())


def test_a_layer_of_the_student_learns_it():
    x = keras.Input((4,))
    temperature = layers.Dense(1, activation="softplus", bias_initializer="ones", name="coach")(x)
    student = keras.Model(x, {"logits": layers.Dense(3)(x), "temperature": temperature})
    before = [np.array(part) for part in student.get_layer("coach").get_weights()]
    loss = losses.KLDivergence("coach")
    term = Term(loss, student="output:logits", name="kd")
    distiller = Distiller(student, teacher=net(), terms=[term])
    distiller.compile(keras.optimizers.SGD(0.1))
    distiller.fit(X, batch_size=16, verbose=0)
    after = student.get_layer("coach").get_weights()
    assert all(np.abs(one - other).max() > 1e-5 for one, other in zip(before, after))


def test_an_unknown_path_is_named():
    with pytest.raises(ValueError, match="has no layer `coach`"):
        Distiller(net(), teacher=net(), terms=[Term(losses.KLDivergence("coach"))])
