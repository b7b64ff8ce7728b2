"""What a model costs: the time of a prediction, and its size."""

import os
import tempfile
import time
from typing import Any

import keras
import numpy as np

from keras_distill import _backend, export


def latency(
    models: dict[str, keras.Model], example: Any, runs: int = 200, warmup: int = 20
) -> dict:
    """The time of one prediction at batch 1. Models take turns, so that drift hits all alike.

    On TensorFlow a compiled function of the model is timed, as it would be served; on other
    backends `predict_on_batch`.

    Args:
        models: a dict of models by name.
        example: an input with a batch axis, of which the first row is used, or a dict of them.
        runs: how many predictions of each model are timed, at least 1. Defaults to `200`.
        warmup: how many go before them, not timed. Defaults to `20`.

    Returns:
        `{name: {"median_ms": ..., "p99_ms": ...}}`, in milliseconds.

    Raises:
        ValueError: for `runs` less than 1.

    Example:

    ```python
    report.latency({"teacher": teacher, "student": student}, x[:1], runs=20)
    ```
    """
    if runs < 1:
        raise ValueError(f"`runs` must be positive. Received: runs={runs}")
    example = keras.tree.map_structure(lambda x: np.asarray(x)[:1], example)
    calls = {name: _call(model, example) for name, model in models.items()}
    times = {name: [] for name in models}
    for _ in range(warmup + runs):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {
        name: {
            "median_ms": float(np.median(found[warmup:])),
            "p99_ms": float(np.percentile(found[warmup:], 99)),
        }
        for name, found in times.items()
    }


def _call(model, example):
    """A function that predicts once and waits for the answer."""
    if _backend.NAME != "tensorflow":
        return lambda: model.predict_on_batch(example)
    tf = _backend.tensorflow("A compiled function")
    example = keras.tree.map_structure(tf.convert_to_tensor, example)
    function = tf.function(lambda x: model(x, training=False), autograph=False)
    function = function.get_concrete_function(example)
    return lambda: keras.tree.map_structure(lambda value: value.numpy(), function(example))


def size_on_disk(model: keras.Model) -> int:
    """The bytes of the model's `.keras` file, without an optimizer.

    Args:
        model: a built `keras.Model`.

    Returns:
        An integer.

    Raises:
        ValueError: for a model that is not built.

    Example:

    ```python
    report.size_on_disk(student) / 1e6  # megabytes
    ```
    """
    with tempfile.TemporaryDirectory() as folder:
        return os.path.getsize(export.write_student(model, os.path.join(folder, "model.keras")))
