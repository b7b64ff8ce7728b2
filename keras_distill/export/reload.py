"""Runs a SavedModel in a fresh process, by TensorFlow alone, and compares what it answers."""

import os
import subprocess
import sys
import tempfile

import keras
import numpy as np

# What the fresh process runs: TensorFlow alone, on the CPU, with Keras out of reach.
_RELOAD = """
import sys
sys.modules["keras"] = None
import numpy as np
import tensorflow as tf
folder, inputs, outputs = sys.argv[1:]
serve = tf.saved_model.load(folder).signatures["serving_default"]
specs = serve.structured_input_signature[1]
given = dict(np.load(inputs))
if list(given) == ["__only__"] and len(specs) == 1:
    given = {name: given["__only__"] for name in specs}
if set(given) != set(specs):
    sys.exit(f"The SavedModel's inputs are {sorted(specs)}. Received: {sorted(given)}")
got = serve(**{name: tf.cast(value, specs[name].dtype) for name, value in given.items()})
wide = {k: tf.cast(v, tf.float64) if v.dtype.is_floating else v for k, v in got.items()}
np.savez(outputs, **{name: value.numpy() for name, value in wide.items()})
"""


def check_saved_model(path, inputs, expected, atol=1e-5):
    """Reloads a SavedModel in a fresh process by TensorFlow alone and compares its outputs.

    `max |serving_default(inputs) - expected|` over all outputs. Keras cannot be imported in that
    process, and it runs on the CPU.

    Args:
        path: a SavedModel's folder, such as `write_saved_model` returns.
        inputs: an array, or a dict of arrays by input name.
        expected: what the model returned for them: an array, or a dict by output name.
        atol: the largest difference allowed.

    Returns:
        The largest absolute difference, a float.

    Raises:
        ValueError: where the outputs differ by more than `atol`, or in name or shape.
        RuntimeError: where the fresh process failed; the message ends with what it said.
    """
    if isinstance(inputs, (list, tuple)):
        raise ValueError(
            "Several `inputs` must be a dict of arrays by input name. "
            f"Received: a {type(inputs).__name__} of {len(inputs)}"
        )
    with tempfile.TemporaryDirectory() as folder:
        given, got = os.path.join(folder, "inputs.npz"), os.path.join(folder, "outputs.npz")
        np.savez(given, **(inputs if isinstance(inputs, dict) else {"__only__": inputs}))
        _run_fresh(os.path.abspath(path), given, got)
        with np.load(got) as outputs:
            difference = _difference(dict(outputs), expected)
    if not difference <= atol:  # NaN too
        raise ValueError(
            f"The reloaded SavedModel must agree with the model to atol={atol}. "
            f"Received: a largest difference of {difference}, in {path!r}"
        )
    return difference


def answers(model, inputs):
    """What a model returns for inputs on the CPU, as the fresh process does: arrays.

    Args:
        model: a `keras.Model`.
        inputs: an array, or a dict of arrays by input name.
    """
    with keras.device("cpu:0"):  # GPUs round the factors of products to fewer bits
        outputs = model(inputs, training=False)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


def _run_fresh(*arguments):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(
        [sys.executable, "-c", _RELOAD, *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(
            f"The SavedModel could not be run in a fresh process: {done.stderr.strip()[-2000:]}"
        )


def _difference(outputs, expected):
    if not isinstance(expected, dict):
        if len(outputs) != 1:
            raise ValueError(
                f"`expected` must be a dict with {sorted(outputs)}. Received: one array"
            )
        expected = dict.fromkeys(outputs, expected)
    if set(expected) != set(outputs):
        raise ValueError(
            f"`expected` must name the SavedModel's outputs, {sorted(outputs)}. "
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
