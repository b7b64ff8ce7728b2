"""What a model costs: the time of a prediction, and its size."""

import os
import tempfile
import time
from typing import Any

import keras
import numpy as np

from keras_distill import _backend, export
from keras_distill.models import operations


def latency(
    models: dict[str, keras.Model], example: Any, runs: int = 200, warmup: int = 20, batch: int = 1
) -> dict:
    """Measures the time of one prediction. The models run in turns.

    On TensorFlow it times a compiled function of the model, as a server would run it. On other
    backends it times `predict_on_batch`.

    Args:
        models: a dict of models by name.
        example: an input with a batch axis, of which the first rows are used, or a dict of them.
        runs: how many predictions of each model are timed, at least 1. Defaults to `200`.
        warmup: how many go before them, not timed. Defaults to `20`.
        batch: how many examples one prediction is of; they are repeated if there are fewer.
            Defaults to `1`.

    Returns:
        `{name: {"median_ms": ..., "p99_ms": ..., "per_second": ...}}`: milliseconds of a
        prediction, and examples a second.

    Raises:
        ValueError: for `runs` or `batch` less than 1.

    Example:

    ```python
    report.latency({"teacher": teacher, "student": student}, x[:1], runs=20)
    ```
    """
    if runs < 1 or batch < 1:
        raise ValueError(
            f"`runs` and `batch` must be positive. Received: runs={runs}, batch={batch}"
        )
    example = keras.tree.map_structure(lambda x: _rows(np.asarray(x), batch), example)
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
            "per_second": float(1e3 * batch / np.median(found[warmup:])),
        }
        for name, found in times.items()
    }


def _rows(array, batch):
    return array[np.arange(batch) % len(array)]


def _call(model, example):
    """A function that predicts once and waits for the answer."""
    if _backend.NAME != "tensorflow":
        return lambda: model.predict_on_batch(example)
    tf = _backend.tensorflow("A compiled function")
    example = keras.tree.map_structure(tf.convert_to_tensor, example)
    function = tf.function(lambda x: model(x, training=False), autograph=False)
    function = function.get_concrete_function(example)
    return lambda: keras.tree.map_structure(lambda value: value.numpy(), function(example))


def operations_of(model: keras.Model, example: Any) -> int | None:
    """The operations of matrix products and convolutions in a prediction of one example.

    Args:
        model: a built `keras.Model`.
        example: an input with a batch axis, or a dict of them, of numbers.

    Returns:
        An integer, or `None` where they cannot be counted: for text, and for a model whose program
        has shapes that are known only when it runs.

    Example:

    ```python
    report.operations_of(student, x[:1])
    ```
    """

    def spec(array):
        return keras.KerasTensor((1, *array.shape[1:]), array.dtype)

    arrays = keras.tree.map_structure(np.asarray, example)
    if any(each.dtype.kind not in "fiub" for each in keras.tree.flatten(arrays)):
        return None
    try:
        specs = keras.tree.map_structure(spec, arrays)
        return operations(lambda x: model(x, training=False), specs)
    except ValueError:
        return None


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
