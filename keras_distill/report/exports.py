"""Measures exported models' costs and answers, each in a fresh process by its own runtime."""

import json
import os
import subprocess
import sys
import tempfile

import numpy as np

from keras_distill.export import places, reload
from keras_distill.export.exported import size_of
from keras_distill.report.costs import PROGRAM

ENDINGS = {".tflite": "litert", ".onnx": "onnx", ".openvino": "openvino"}
QUANTIZED = ("float16", "dynamic_int8", "int8", "int4")


def format_of(path):
    """Returns the format of an exported model.

    Args:
        path: a `.tflite` or `.onnx` file, or a folder of OpenVINO or with a SavedModel.

    Raises:
        FileNotFoundError: if nothing is there.
        ValueError: if it is no exported model, or one that did not pass its check.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"No such exported model: {path}")
    if os.path.isfile(os.path.join(path, "saved_model.pb")) and not path.endswith(".failed"):
        return "serving"
    kind = ENDINGS.get(os.path.splitext(path.rstrip(os.sep))[1])
    if kind is None:
        raise ValueError(
            f"An exported model must be a file or folder that ends in {', '.join(ENDINGS)}, or the "
            f"folder of a SavedModel, and must have passed its check. Received: {path}"
        )
    return kind


def found_in(folder):
    """Returns the paths of all exported models in and below a folder, except failed ones."""
    paths = []
    for place, folders, files in os.walk(folder):
        if "saved_model.pb" in files:
            paths += [] if place.endswith(".failed") else [place]
            folders.clear()
            continue
        paths += [os.path.join(place, n) for n in files if n.endswith((".tflite", ".onnx"))]
        paths += [os.path.join(place, n) for n in folders if n.endswith(".openvino")]
        folders[:] = [n for n in folders if not n.endswith(".openvino") and not n.startswith(".")]
    return sorted(paths)


def measured(path, inputs, runs=50):
    """Times an exported model, and returns its answers.

    Args:
        path: as in `format_of`.
        inputs: an array, or a dict of arrays by input name.
        runs: how many predictions of each batch size to time. Defaults to `50`.

    Returns:
        `(costs, outputs)`: a dict of `path`, `format`, `quantize`, `size_bytes`, `peak_bytes` (the
        memory of the process for the model) and `latency`, and a dict of arrays by output name.

    Raises:
        RuntimeError: if the process failed. The message ends with its last line of output.
    """
    kind = format_of(path)
    with tempfile.TemporaryDirectory() as folder, places.plain(os.fspath(path)) as model:
        given, got, costs = (os.path.join(folder, n) for n in ("in.npz", "out.npz", "costs.json"))
        arrays = inputs if isinstance(inputs, dict) else {"__only__": inputs}
        reload.write_arrays(given, arrays)
        command = [sys.executable, PROGRAM, str(reload.RUNTIMES), kind, os.path.abspath(model),
                   given, got, costs, str(runs)]  # fmt: skip
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise RuntimeError(f"{path} failed in a new process: {said[:1000]}")
        with np.load(got) as arrays, open(costs, encoding="utf-8") as file:
            names, costs = json.loads(str(arrays["names"])), json.load(file)
            outputs = {name: arrays[f"arr_{index}"] for index, name in enumerate(names)}
    latency = {batch: summary(found, int(batch)) for batch, found in costs["seconds"].items()}
    stem = os.path.splitext(os.path.basename(path))[0]
    quantize = next((each for each in QUANTIZED if stem.endswith(f"-{each}")), "none")
    return {"path": os.fspath(path), "format": kind, "quantize": quantize,
            "size_bytes": size_of(path), "peak_bytes": costs["peak_bytes"],
            "latency": latency}, outputs  # fmt: skip


def summary(seconds, batch):
    """Returns the milliseconds per prediction, and the examples per second."""
    median = float(np.median(seconds))
    return {"median_ms": 1e3 * median, "p99_ms": 1e3 * float(np.percentile(seconds, 99)),
            "per_second": batch / median}  # fmt: skip
