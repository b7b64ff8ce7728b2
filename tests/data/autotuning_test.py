"""Datasets without tf.data's autotuning."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.data import read_targets, without_autotune, write_targets


def test_autotuning_is_off_and_elements_are_the_same():
    dataset = tf.data.Dataset.range(10).shuffle(10, seed=1, reshuffle_each_iteration=False).batch(4)
    off = without_autotune(dataset)
    assert off.options().autotune.enabled is False
    assert off.element_spec == dataset.element_spec
    for ours, theirs in zip(off, dataset, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_options_that_say_whether_to_tune_stay():
    options = tf.data.Options()
    options.autotune.enabled = True
    options.deterministic = False
    dataset = tf.data.Dataset.range(3).with_options(options)
    assert without_autotune(dataset) is dataset


def test_what_is_no_dataset_is_returned():
    arrays = np.zeros(3), np.zeros(3)
    assert without_autotune(arrays) is arrays
    assert without_autotune(None) is None


def test_other_options_stay():
    options = tf.data.Options()
    options.deterministic = False
    off = without_autotune(tf.data.Dataset.range(3).with_options(options)).options()
    assert (off.autotune.enabled, off.deterministic) == (False, False)


@pytest.mark.parametrize("views", [1, 2])
def test_reading_targets_starts_no_tuner(calls, tmp_path, views):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    data = tf.data.Dataset.from_tensor_slices(np.eye(2, dtype="float32")).batch(2)
    augment = (lambda x, seed: x + tf.random.stateless_uniform([2], seed)) if views > 1 else None
    path = tmp_path / "targets"
    write_targets(model, data, path, views=views, augment=augment, verbose=0)
    assert len(list(read_targets(data, path, augment=augment))) == 1
    assert calls and tf.data.AUTOTUNE not in calls
