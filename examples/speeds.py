"""Measures the speed of models that take turns on one machine."""

import functools
import time

import keras
import numpy as np
import tensorflow as tf


def speeds(models, sizes=(1, 32), rounds=30, warmup=3):
    """Returns milliseconds per call and examples per second, `{name: {size: ...}}` by batch size.

    The models take turns, so that any other load on the machine slows all of them. The values are
    medians.

    Args:
        models: `{name: (model, inputs)}`. A compiled function calls each model as in inference. A
            model that is to `run_eagerly` is called eagerly and once. Inputs are a tensor, or a
            dict of tensors, with at least as many examples as the largest size.
        sizes: the batch sizes.
        rounds: how many calls of each model are timed.
        warmup: how many calls of each model run before them.
    """
    calls = {}
    for name, (model, inputs) in models.items():
        run = functools.partial(model, training=False)
        if model.run_eagerly:
            rounds, warmup = 1, 0
        else:
            run = tf.function(run)
        for size in sizes:
            batch = keras.tree.map_structure(lambda value, size=size: value[:size], inputs)
            calls[name, size] = functools.partial(run, batch), []
    for _ in range(warmup + rounds):
        for call, times in calls.values():
            started = time.perf_counter()
            keras.tree.map_structure(np.asarray, call())
            times.append(time.perf_counter() - started)
    found = {name: {} for name in models}
    for (name, size), (_, times) in calls.items():
        median = float(np.median(times[warmup:]))
        found[name][size] = {"ms": 1e3 * median, "examples_a_second": size / median}
    return found
