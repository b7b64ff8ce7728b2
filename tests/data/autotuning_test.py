"""Datasets without tf.data's autotuning."""

import numpy as np
import tensorflow as tf

from keras_distill.data import without_autotune


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
