"""Contrastive distillation and its memory against plain loops and the original's."""

import math

import keras
import numpy as np
import pytest
from backends import need_tensorflow, tf
from golden import contrastive
from golden_test import METHODS, arrays_of

need_tensorflow()

from keras_distill import Distiller, Term
from keras_distill.losses import ContrastiveRepresentation

RANDOM = np.random.default_rng(0)
TEACHER = RANDOM.normal(size=(3, 4)).astype("float32")
STUDENT = RANDOM.normal(size=(3, 5)).astype("float32")
NEGATIVES = RANDOM.integers(0, 8, (3, 4))


def make(**arguments):
    usual = {"width": 6, "negatives": 4, "temperature": 0.5, "momentum": 0.25, "seed": 1}
    loss = ContrastiveRepresentation(8, **{**usual, **arguments})
    loss.build(STUDENT.shape, {"feature": TEACHER.shape, "index": (3,)})
    return loss


def call(loss, index=(1, 4, 2), negatives=NEGATIVES, mask=None):
    teacher = {"feature": tf.constant(TEACHER), "index": tf.constant(index, "float32")}
    if negatives is not None:
        teacher["negatives"] = tf.constant(negatives)
    mask = None if mask is None else tf.constant(mask, "float32")
    return loss.call(teacher, tf.constant(STUDENT), mask=mask).numpy()


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def embeddings(loss):
    sides = ((loss.layer.student, STUDENT), (loss.layer.teacher, TEACHER))
    return [unit(x @ dense.kernel.numpy() + dense.bias.numpy()) for dense, x in sides]


def banks(loss):
    return loss.layer.students.numpy(), loss.layer.teachers.numpy()


def expected_values(loss, normalize, index=(1, 4, 2)):
    (student, teacher), (students, teachers) = embeddings(loss), banks(loss)
    noise, values = 4 / 8, np.zeros(3)
    for embedding, bank in ((student, teachers), (teacher, students)):
        critic = np.array([
            [math.exp(embedding[i] @ bank[k] / 0.5) for k in (index[i], *NEGATIVES[i])]
            for i in range(3)
        ])  # fmt: skip
        critic = critic / (critic.mean() * 8 if normalize else 1)
        chance = critic / (critic + noise)
        values += -np.log(chance[:, 0]) - np.log(1 - chance[:, 1:]).sum(axis=1)
    return values


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_is_the_formula(variant):
    loss = make(variant=variant)
    expected = expected_values(loss, variant == "code")
    np.testing.assert_allclose(call(loss), expected, rtol=1e-5)


def test_the_normalizer_is_the_first_batchs():
    loss = make()
    call(loss, mask=[0, 0, 0])
    call(loss)
    kept = loss.layer.student_normalizer.numpy()
    call(loss, (5, 6, 7))
    assert np.isfinite(kept) and kept > -1e3 and loss.layer.student_normalizer.numpy() == kept


def test_memories_move_towards_the_embeddings():
    loss = make()
    before, moved = banks(loss), embeddings(loss)
    call(loss, index=(1, 4, 1), mask=[1, 0, 1])
    for old, new, embedding in zip(before, banks(loss), moved):
        expected = old.copy()
        expected[1] = unit(0.25 * old[1] + 0.75 * embedding[2])  # the last of two counts
        np.testing.assert_allclose(new, expected, atol=1e-6)


def test_negatives_come_from_the_seed():
    first, again, other = (call(make(seed=s), negatives=None) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_no_gradient_reaches_the_memories():
    loss = make()
    with tf.GradientTape() as tape:
        values = loss.call(
            {"feature": tf.constant(TEACHER), "index": tf.constant([1, 4, 2])},
            tf.constant(STUDENT),
        )
    gradients = tape.gradient(values, [v.value for v in loss.layer.trainable_variables])
    assert len(gradients) == 4 and all(gradient is not None for gradient in gradients)
    assert len(loss.layer.non_trainable_variables) == 5  # two memories, two Z and a seed


CRD = next(method for method in METHODS if method["method"] == "crd")


@pytest.mark.parametrize("case", CRD["cases"], ids=lambda case: case["case"])
def test_memories_and_normalizers_are_the_originals(case):
    arrays = {name: tf.constant(value) for name, value in arrays_of(CRD, case).items()}
    loss, preset = contrastive(arrays, case["hyper_parameters"])
    for variable, value in preset:
        variable.assign(value)
    teacher = {"feature": arrays["teacher"], "index": arrays["idx"]}
    teacher["negatives"] = arrays["contrast_idx"][:, 1:]
    loss.call(teacher, arrays["student"])
    for name, bank in (("s", loss.layer.students), ("t", loss.layer.teachers)):
        np.testing.assert_allclose(bank.numpy(), arrays[f"expected_memory_{name}"], atol=1e-6)
    layer = loss.layer
    for name, known in (("s", layer.student_normalizer), ("t", layer.teacher_normalizer)):
        np.testing.assert_allclose(math.exp(known), arrays[f"expected_Z_{name}"], rtol=1e-5)


def test_a_distiller_trains_and_remembers():

    x = keras.Input((5,), name="x")
    inputs = {"x": x, "index": keras.Input((), dtype="int32", name="index")}
    student, teacher = (
        keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dense(3, name="hint")(x)))
        for _ in range(2)
    )
    loss = ContrastiveRepresentation(8, width=4, negatives=5, seed=0)
    places = {"feature": "hint", "index": "input:index"}
    term = Term(loss, student="hint", teacher=places)
    distiller = Distiller(student, teacher=teacher, terms=[term], alpha=1.0)
    distiller.compile("sgd")
    data = {"x": RANDOM.normal(size=(8, 5)).astype("float32"), "index": np.arange(8)}
    distiller.fit(data, epochs=0, verbose=0)
    before = loss.layer.students.numpy(), loss.layer.student.kernel.numpy()
    distiller.fit(data, batch_size=4, epochs=1, verbose=0)
    after = loss.layer.students.numpy(), loss.layer.student.kernel.numpy()
    assert all((one != other).any(axis=-1).all() for one, other in zip(before, after))


@pytest.mark.parametrize("name", ["examples", "width", "negatives"])
def test_counts_are_positive(name):
    with pytest.raises(ValueError, match=f"`{name}` must be positive. Received: {name}=0"):
        ContrastiveRepresentation(**{"examples": 8, name: 0})


def test_a_momentum_is_a_share():
    with pytest.raises(ValueError, match="`momentum` must be in .*Received: momentum=2"):
        ContrastiveRepresentation(8, momentum=2)
