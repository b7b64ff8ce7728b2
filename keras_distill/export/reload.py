"""Runs an exported model in a fresh process, by its own runtime, and compares its answers."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from typing import Any

import keras
import numpy as np

from keras_distill import _backend
from keras_distill.export import places

RUNTIMES = pathlib.Path(__file__).with_name("runtimes.py")


def check_saved_model(path: str, inputs: Any, expected: Any, atol: float = 1e-5) -> float:
    """Reloads a SavedModel in a fresh process by TensorFlow alone and compares its outputs.

    `max |serving_default(inputs) - expected|` over all outputs. The process cannot import Keras,
    and runs on the CPU.

    Args:
        path: a SavedModel's folder, such as one from `write_saved_model`.
        inputs: an array, or a dict of arrays by input name.
        expected: the model's outputs for them: an array, or a dict by output name.
        atol: the largest allowed difference.

    Returns:
        The largest absolute difference, a float.

    Raises:
        ValueError: if the outputs differ by more than `atol`, or in name or shape.
        RuntimeError: if the new process failed. The message ends with its last line of output.

    Example:

    ```python
    student.export("served")
    export.check_saved_model("served", x, export.answers(student, x))
    ```
    """
    difference = largest_difference(outputs_of("serving", path, inputs), expected)
    if not difference <= atol:  # also for NaN
        raise ValueError(
            f"The outputs of the reloaded SavedModel may differ from the model's by at most "
            f"atol={atol}. Received: a largest difference of {difference}, in {path!r}"
        )
    return difference


def answers(model: keras.Model, inputs: Any) -> Any:
    """Returns a model's outputs on the CPU as arrays, as the fresh process computes them.

    Args:
        model: a `keras.Model`.
        inputs: an array, or a dict of arrays by input name.

    Returns:
        An array, or a structure of arrays, as the model returns it.

    Example:

    ```python
    export.answers(student, x)  # an array, (16, 10)
    ```
    """
    inputs = keras.tree.map_structure(_tensor, inputs)
    with keras.device("cpu:0"):  # GPUs round the factors of products to fewer bits
        outputs = model(inputs, training=False)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


def _tensor(array):
    """Returns strings as a tensor, which a layer takes; other arrays unchanged."""
    if getattr(array, "dtype", None) is None or np.asarray(array).dtype.kind not in "SU":
        return array
    return _backend.tensorflow("A model of strings").constant(array)


def outputs_of(kind, path, inputs):
    """Returns an exported model's answers in a fresh process, without Keras and this package.

    Args:
        kind: `"serving"`, `"litert"`, `"onnx"` or `"openvino"`.
        path: The exported file or folder.
        inputs: An array, or a dict of arrays by input name.

    Returns:
        A dict of arrays by output name.

    Raises:
        ValueError: If there are several inputs without names.
        RuntimeError: If the process failed. The message ends with its last line of output.
    """
    if isinstance(inputs, (list, tuple)):
        raise ValueError(
            "Several `inputs` must be a dict of arrays by input name. "
            f"Received: a {type(inputs).__name__} of {len(inputs)}"
        )
    with tempfile.TemporaryDirectory() as folder, places.plain(path) as model:
        given, got = os.path.join(folder, "inputs.npz"), os.path.join(folder, "outputs.npz")
        arrays = inputs if isinstance(inputs, dict) else {"__only__": inputs}
        write_arrays(given, arrays)
        _run_fresh(kind, os.path.abspath(model), given, got)
        with np.load(got) as arrays:
            names = json.loads(str(arrays["names"]))
            return {name: arrays[f"arr_{index}"] for index, name in enumerate(names)}


def write_arrays(path, arrays):
    """Writes arrays by name as `np.savez` does, whose arguments are no names of arrays, however.

    Args:
        path: the path of an `.npz` file.
        arrays: a dict of arrays, or of what makes an array.
    """
    with zipfile.ZipFile(path, "w") as file:
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as part:
                np.lib.format.write_array(part, np.asarray(array), allow_pickle=False)


def _run_fresh(kind, *arguments):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, str(RUNTIMES), kind, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        what = "SavedModel" if kind == "serving" else f"exported model ({kind})"
        lines = [each for each in done.stderr.splitlines() if each.strip() and each[:5] != "INFO:"]
        lines = lines or [f"it ended with {done.returncode}"]
        raise RuntimeError(f"The {what} failed in a new process: {lines[-1][:1000]}")


def largest_difference(outputs, expected):
    """Returns the largest absolute difference over all outputs, or NaN if there is one.

    Args:
        outputs: A dict of arrays by output name.
        expected: Another such dict, or the array of the only output.

    Raises:
        ValueError: If the outputs differ in name or shape.
    """
    if not isinstance(expected, dict):
        if len(outputs) != 1:
            raise ValueError(
                f"`expected` must be a dict with {sorted(outputs)}. Received: one array"
            )
        expected = dict.fromkeys(outputs, expected)
    if set(expected) != set(outputs):
        raise ValueError(
            f"`expected` must name the exported model's outputs, {sorted(outputs)}. "
            f"Received: {sorted(expected)}"
        )
    return max(_distance(name, outputs[name], np.asarray(expected[name])) for name in outputs)


def _distance(name, output, expected):
    if output.shape != expected.shape:
        raise ValueError(
            f"`expected` must have the shape of output {name!r}, {output.shape}. "
            f"Received: {expected.shape}"
        )
    return float(np.max(np.abs(output - expected.astype(output.dtype)), initial=0.0))
