"""How fast models are that take turns on one machine."""

import functools
import time

import keras
import numpy as np
import tensorflow as tf


def speeds(models, sizes=(1, 32), rounds=30, warmup=3):
    """Milliseconds a call and examples a second of models, by batch size: `{name: {size: ...}}`.

    They take turns, so that whatever else the machine does slows all of them; medians.

    Args:
        models: `{name: (model, inputs)}`. Models are called as in inference, by a compiled
            function; one that is to `run_eagerly` so and once. Inputs are a tensor or a dict of
            tensors of at least as many examples as the largest size.
        sizes: the sizes of a batch.
        rounds: how many calls of each are timed.
        warmup: how many calls go before them.
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
