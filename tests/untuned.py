"""Saves the suite what TensorFlow does for long runs: each graph of a test runs a few times."""

import functools

import tensorflow as tf
from whole import WHOLE


@functools.cache
def tune_nothing():
    """What graphs and datasets compute stays the same. With `WHOLE` graphs are optimized."""
    from keras_distill.data import without_autotune

    if not WHOLE:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    begin = tf.data.Dataset.__iter__
    tf.data.Dataset.__iter__ = lambda self: begin(without_autotune(self).with_options(options))
