"""A cache held against the live teacher."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.data import verify_targets, write_targets

X = np.random.default_rng(0).normal(size=(60, 6)).astype("float32")
DATA = tf.data.Dataset.from_tensor_slices((X, np.arange(60))).batch(8)


def net(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(30, name="head")])


@pytest.mark.parametrize("dtype, low, high", [("float32", 0, 1e-5), ("float16", 1e-5, 5e-3)])
def test_the_error_is_measured(tmp_path, dtype, low, high):
    write_targets(net(0), DATA, tmp_path, dtype=dtype, verbose=0)
    found = verify_targets(net(0), DATA, tmp_path, rows=30)["output"]
    assert 24 <= found["rows"] <= 40
    assert low <= found["largest_error"] <= high


@pytest.mark.parametrize("dtype, high", [("float32", 1e-6), ("uint8", 1e-3)])
def test_the_divergence_of_top_k_is_measured(tmp_path, dtype, high):
    write_targets(net(0), DATA, tmp_path, top_k=5, temperature=2.0, dtype=dtype, verbose=0)
    found = verify_targets(net(0), DATA, tmp_path)["output"]
    assert found["rows"] == 60
    assert abs(found["divergence"]) < high
    assert (found["largest_error"] > 1e-4) == (dtype == "uint8")


def test_another_teacher_is_refused(tmp_path):
    write_targets(net(0), DATA, tmp_path, verbose=0)
    with pytest.raises(ValueError, match="weights"):
        verify_targets(net(1), DATA, tmp_path)


def test_infinite_logits_that_are_equal_do_not_err(tmp_path):
    def padded(x):
        return tf.concat([x, tf.fill([tf.shape(x)[0], 2], -np.inf)], -1)

    named = {"teacher": "padded, version 1"}
    write_targets(padded, DATA, tmp_path, dtype="float32", verbose=0, fingerprints=named)
    found = verify_targets(padded, DATA, tmp_path, fingerprints=named)
    assert found["output"]["largest_error"] == 0
