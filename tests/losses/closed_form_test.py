"""The gradients written out, against automatic differentiation of the same formula."""

import numpy as np
import pytest
from backends import need_tensorflow, tf

need_tensorflow()

from keras_distill.batch import TopK
from keras_distill.losses import closed_form, softened

RANDOM = np.random.default_rng(0)
TEACHER, STUDENT = (RANDOM.normal(size=(2, 3, 7)).astype("float32") * 3 for _ in range(2))
PADDED = np.where(np.arange(7) == 5, -np.inf, STUDENT).astype("float32")  # a class that is none
WEIGHTS = RANDOM.random((2, 3)).astype("float32")
T, FACTOR = 2.0, 3.0


def top(k):
    log_probs = tf.nn.log_softmax(TEACHER / T)
    kept, ids = tf.math.top_k(log_probs, k)
    rest = softened.placed(log_probs, ids, tf.fill(ids.shape, -1e30))
    return TopK(ids, kept, tf.reduce_logsumexp(rest, -1), T)


def with_gradient(function, y_pred):
    y_pred = tf.constant(y_pred)
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        values = function(y_pred)
        total = tf.reduce_sum(values * WEIGHTS)
    return values.numpy(), tape.gradient(total, y_pred).numpy()


def same(ours, plain):
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert np.abs(ours[1]).max() > 0.1


@pytest.mark.parametrize("y_pred", [STUDENT, PADDED], ids=["student", "padded"])
def test_all_classes(y_pred):
    teacher = np.where(np.isfinite(y_pred), TEACHER, -np.inf)

    def plain(y_pred):
        log_teacher = softened.log_probabilities(tf.constant(teacher / T, "float32"))
        return FACTOR * softened.forward_kl(log_teacher, softened.log_probabilities(y_pred / T))

    ours = with_gradient(lambda z: closed_form.kl_of_logits(teacher, z, T, FACTOR), y_pred)
    same(ours, with_gradient(plain, y_pred))


def test_classes_of_no_probability_in_half_precision():
    teacher, student = (tf.constant([[0.0, 1.0, value]], "float16") for value in (-np.inf, 2.0))
    values, gradient = with_gradient(
        lambda z: closed_form.kl_of_logits(teacher, z, T, FACTOR), student
    )
    expected, _ = with_gradient(
        lambda z: closed_form.kl_of_logits(tf.cast(teacher, "float32"), z, T, FACTOR),
        tf.cast(student, "float32"),
    )
    np.testing.assert_allclose(values, expected, rtol=2e-3)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("k", [1, 3, 7])
def test_top_k(k):
    def plain(y_pred):
        log_student = softened.log_probabilities(y_pred / T)
        return FACTOR * softened.forward_kl(*softened.with_rest(top(k), log_student))

    ours = with_gradient(lambda z: closed_form.kl_of_top_k(top(k), z, T, FACTOR), STUDENT)
    same(ours, with_gradient(plain, STUDENT))


def test_top_k_where_the_student_gives_the_rest_nothing():
    sure = np.where(np.arange(7) == TEACHER.argmax(-1)[..., None], 200.0, -200.0).astype("float32")
    values, gradient = with_gradient(lambda z: closed_form.kl_of_top_k(top(1), z, T, FACTOR), sure)
    assert np.isfinite(values).all() and np.isfinite(gradient).all()


@pytest.mark.parametrize("k", [3, 7])  # of all classes nothing is left: no NaN by XLA's rounding
def test_top_k_by_xla(k):
    def ours(y_pred):
        return closed_form.kl_of_top_k(top(k), y_pred, 3.0, FACTOR)

    same(with_gradient(tf.function(ours, jit_compile=True), STUDENT), with_gradient(ours, STUDENT))
