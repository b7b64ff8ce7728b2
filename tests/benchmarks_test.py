"""What the benchmarks are given, and what they compute beside the package."""

import inspect
import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import TopK, losses

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "benchmarks"))
from loss_shapes import CASES, TABLE, usual  # noqa: E402


def test_every_loss_is_timed():
    exported = {name for name in losses.__all__ if inspect.isclass(getattr(losses, name))}
    assert {*CASES} == exported - {"DistillationLoss"} and {*TABLE} <= {*CASES}


def test_a_loss_that_is_in_no_table_gets_a_case():
    class Mine(losses.DistillationLoss):
        example = {"shapes": ((2, 3, 3, 4),), "minimum": None}

        def call(self, y_true, y_pred):
            return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)

    case = usual(Mine)
    student, call = case.made(2)
    assert student.shape == (2, 14, 14, 256) and call(student).shape == (2, 14, 14)


def test_what_a_loss_makes_of_a_top_k_gives_its_value_and_gradient():
    pytest.importorskip("keras_hub")
    pytest.importorskip("tokenizers")
    from top_k_error import lying_as

    teacher, student = tf.constant(np.random.default_rng(0).normal(size=(2, 5, 9)), tf.float32)
    log_probs, ids = tf.math.top_k(tf.nn.log_softmax(teacher / 2), 3)
    tail = tf.math.log(1 - tf.reduce_sum(tf.exp(log_probs), -1))
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = losses.KLDivergence(2.0).call(TopK(ids, log_probs, tail, 2.0), student)
    log_student = tf.nn.log_softmax(student / 2)
    lying = lying_as(TopK(ids, log_probs, tail, 2.0), log_student, 2.0)
    expected = 4 * tf.reduce_sum(tf.exp(lying) * (lying - log_student), -1)
    np.testing.assert_allclose(value, expected, atol=1e-5)
    slope = 2 * (tf.exp(log_student) - tf.exp(lying))
    np.testing.assert_allclose(tape.gradient(value, student), slope, atol=1e-5)
