"""Runs an exported model by its own runtime: `python runtimes.py FORMAT MODEL INPUTS OUTPUTS`.

This is a program, not a module of the package. It runs in a process of its own. As on the machine
for which the model is made, this process can import neither Keras nor keras_distill. `INPUTS` is an
`.npz` file with an array for each input. `OUTPUTS` becomes one with an array for each output.
"""

import importlib.util
import json
import os
import pathlib
import sys

if __name__ == "__main__":  # no file in this folder may hide a package
    sys.path[:] = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]
    sys.modules["keras"] = sys.modules["keras_distill"] = None

import numpy as np

ONLY = "__only__"  # the only input, if its name is not known


def serving(path):
    """Loads a SavedModel by TensorFlow, on the CPU."""
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(path)
    except (RuntimeError, tf.errors.OpError) as error:
        if "not registered" not in str(error):
            raise
        load_text_operations(tf)
        loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]
    specs = serve.structured_input_signature[1]

    def feed(given):
        return {n: tf.cast(value, specs[n].dtype) for n, value in named(given, specs).items()}

    def run(batch):
        found = {name: value.numpy() for name, value in serve(**batch).items()}
        return {n: v.astype("float64") if v.dtype.kind in "fV" else v for n, v in found.items()}

    return Loaded(serve, feed, run)


def load_text_operations(tf):
    """Registers the operations of tensorflow-text without its package, which would import Keras."""
    spec = importlib.util.find_spec("tensorflow_text")
    if spec is None:
        sys.exit("The signature `text` needs tensorflow-text. Run `pip install tensorflow-text`.")
    for file in sorted(pathlib.Path(spec.origin).parent.glob("python/ops/_*.so")):
        tf.load_op_library(str(file))


def litert(path):
    """Loads a `.tflite` file by LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(path).get_signature_runner("serving_default")
    details = runner.get_input_details()
    sizes = {int(each["shape_signature"][0]) for each in details.values()}
    results = runner.get_output_details()

    def feed(given):
        return {n: quantized(value, details[n]) for n, value in named(given, details).items()}

    def run(batch):
        return {n: dequantized(v, results[n]) for n, v in runner(**batch).items()}

    return Loaded(runner, feed, run, sizes)


def quantized(value, detail):
    """Returns an array in the form of an input: integers if the input is quantized."""
    scale, zero = detail["quantization"]
    if np.issubdtype(detail["dtype"], np.integer) and scale and value.dtype.kind == "f":
        limits = np.iinfo(detail["dtype"])
        value = np.clip(np.round(value / scale) + zero, limits.min, limits.max)
    return value.astype(detail["dtype"])


def dequantized(value, detail):
    """Returns the numbers that a quantized output represents."""
    scale, zero = detail["quantization"]
    if value.dtype.kind in "iu" and scale:
        return ((value.astype("float64") - zero) * scale).astype("float32")
    return value


def onnx(path):
    """Loads an `.onnx` file by ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    kinds = {"float": "float32", "double": "float64", "float16": "float16"}
    inputs = {each.name: each for each in session.get_inputs()}
    names = [each.name for each in session.get_outputs()]
    sizes = {each.shape[0] if isinstance(each.shape[0], int) else -1 for each in inputs.values()}

    def feed(given):
        given = named(given, inputs)
        for name, value in given.items():
            kind = inputs[name].type[len("tensor(") : -1]
            given[name] = value.astype(kinds.get(kind, kind))
        return given

    return Loaded(session, feed, lambda batch: dict(zip(names, session.run(names, batch))), sizes)


def openvino(path):
    """Loads a folder with `model.xml` by OpenVINO, which computes in float32."""
    import openvino as ov

    # By default a CPU with bfloat16 computes in it.
    precision = {"INFERENCE_PRECISION_HINT": "f32"}
    model = ov.Core().compile_model(f"{path}/model.xml", "CPU", precision)
    inputs = {each.get_any_name(): each for each in model.inputs}
    shapes = [each.get_partial_shape()[0] for each in model.inputs]
    sizes = {-1 if size.is_dynamic else size.get_length() for size in shapes}

    def feed(given):
        given = named(given, inputs)
        return {n: v.astype(inputs[n].get_element_type().to_dtype()) for n, v in given.items()}

    def run(batch):
        return {each.get_any_name(): np.array(value) for each, value in model(batch).items()}

    return Loaded(model, feed, run, sizes)


class Loaded:
    """A model in its runtime, ready to answer.

    Args:
        model: The runtime's model, which this object keeps alive.
        feed: A function from arrays by input name to the runtime's inputs.
        run: A function from these to arrays by output name.
        sizes: The batch sizes of the inputs; below 1 if any size is allowed.
    """

    def __init__(self, model, feed, run, sizes=(-1,)):
        self.model, self.feed, self.run, self.batch = model, feed, run, max(sizes)

    def __call__(self, given):
        """Returns the outputs for all examples, in batches of the model's size."""
        return in_batches(self.run, self.feed(given), self.batch)


def named(given, inputs):
    """Returns the arrays by the names of the inputs."""
    if list(given) == [ONLY] and len(inputs) == 1:
        return {name: given[ONLY] for name in inputs}
    if set(given) != set(inputs):
        sys.exit(f"The model's inputs are {sorted(inputs)}. Received: {sorted(given)}")
    return dict(given)


def in_batches(run, given, fixed):
    """Runs all examples at once, or in batches of the model's size.

    Args:
        run: A function from a batch to its outputs.
        given: The inputs.
        fixed: The batch size of the model; below 1 if any size is allowed.
    """
    if fixed < 1:
        return run(given)
    count = len(next(iter(given.values())))
    rows = np.minimum(np.arange(-(-count // fixed) * fixed), count - 1)  # fills the last batch up
    found = [run({n: v[part] for n, v in given.items()}) for part in rows.reshape(-1, fixed)]
    return {n: np.concatenate([each[n] for each in found])[:count] for n in found[0]}


RUNTIMES = {"serving": serving, "litert": litert, "onnx": onnx, "openvino": openvino}


def main(kind, path, inputs, outputs):
    """Runs the model on the inputs and writes the outputs."""
    with np.load(inputs) as given:
        given = dict(given)
    found = RUNTIMES[kind](path)(given)
    np.savez(outputs, *found.values(), names=json.dumps([*found]))  # a name may be an argument's


if __name__ == "__main__":
    main(*sys.argv[1:])
