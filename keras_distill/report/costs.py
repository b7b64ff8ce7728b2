"""Measures the cost of a model: the time of a prediction, and its size."""

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import keras
import numpy as np

from keras_distill import _backend, _files, export
from keras_distill.models import operations
from keras_distill.report import texts

PROGRAM = os.path.join(os.path.dirname(__file__), "cost_program.py")


def latency(
    models: dict[str, keras.Model], example: Any, runs: int = 200, warmup: int = 20, batch: int = 1
) -> dict:
    """Measures the time of one prediction. The models run in turns.

    On TensorFlow it times a compiled function of the model, as a server would run it. On other
    backends it times `predict_on_batch`.

    Args:
        models: a dict of models by name.
        example: an input with a batch axis, or a dict of them. The first rows are used.
        runs: how many predictions of each model to time, at least 1. Defaults to `200`.
        warmup: how many predictions to make before them without timing. Defaults to `20`.
        batch: the number of examples in one prediction. If there are fewer examples, they are
            repeated. Defaults to `1`.

    Returns:
        `{name: {"median_ms": ..., "p99_ms": ..., "per_second": ...}}`: milliseconds per prediction,
        and examples per second.

    Raises:
        ValueError: if `runs` or `batch` is less than 1.

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
    """Returns a function that predicts once and waits for the answer, or writes texts."""
    if any(each.dtype.kind in "OSU" for each in keras.tree.flatten(example)) and writes(model):
        write = texts.writer(model)
        return lambda: write(example)
    if _backend.NAME != "tensorflow":
        return lambda: model.predict_on_batch(example)
    tf = _backend.tensorflow("A compiled function")
    example = keras.tree.map_structure(tf.convert_to_tensor, example)
    function = tf.function(lambda x: model(x, training=False), autograph=False)
    function = function.get_concrete_function(example)
    return lambda: keras.tree.map_structure(lambda value: value.numpy(), function(example))


def writes(model):
    """Returns whether a model writes texts, as KerasHub's generative tasks do."""
    return callable(getattr(model, "generate", None))


def operations_of(model: keras.Model, example: Any) -> int | None:
    """Returns the operations of matrix products and convolutions in a prediction of one example.

    Args:
        model: a built `keras.Model`.
        example: an input with a batch axis, or a dict of them, of numbers.

    Returns:
        An integer, or `None` if they cannot be counted: for text, and for a model whose program has
        shapes that are known only when it runs.

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
    """Returns the bytes of the model's `.keras` file, without an optimizer.

    Args:
        model: a built `keras.Model`.

    Returns:
        An integer.

    Raises:
        ValueError: if the model is not built.

    Example:

    ```python
    report.size_on_disk(student) / 1e6  # megabytes
    ```
    """
    with tempfile.TemporaryDirectory() as folder:
        return os.path.getsize(export.write_student(model, os.path.join(folder, "model.keras")))


def peak_memory(model: keras.Model, example: Any) -> int | None:
    """Returns the bytes that a fresh process takes for a model and its predictions.

    The process predicts batches of 1 and 32. Its memory with only the libraries loaded is
    subtracted.

    Args:
        model: a built `keras.Model`.
        example: an input with a batch axis, or a dict or list of them.

    Returns:
        An integer, or `None` if it cannot be measured: on another system than Linux, on another
        backend than TensorFlow, for texts, and for a model that cannot be loaded from its file.

    Example:

    ```python
    report.peak_memory(student, x[:1])
    ```
    """
    names = [*example] if isinstance(example, dict) else []
    several = isinstance(example, (dict, list, tuple))
    arrays = [example[name] for name in names] or (example if several else [example])
    plain = all(np.asarray(each).dtype.kind in "fiub" for each in arrays)
    if _backend.NAME != "tensorflow" or not plain:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file, given, found = (os.path.join(folder, n) for n in ("m.keras", "in.npz", "costs.json"))
        export.write_student(model, file)
        hub = [each for each in ("keras_distill", "keras_hub") if each in sys.modules]
        described = {"modules": hub, "names": names, "several": several}
        np.savez(given, *arrays, described=json.dumps(described))
        paths = os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1",
                       "PYTHONPATH": paths}  # fmt: skip
        command = [sys.executable, PROGRAM, "-", "keras", file, given, found]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return None if done.returncode else _files.read_json(found)["peak_bytes"]
