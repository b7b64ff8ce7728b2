"""Runs an exported model by its own runtime: `python runtimes.py FORMAT MODEL INPUTS OUTPUTS`.

This is a program, not a module of the package. It runs in a process of its own, in which neither
Keras nor keras_distill can be imported, as on the machine that the model is made for. `INPUTS` is
an `.npz` file with an array for each input. `OUTPUTS` becomes one with an array for each output.
"""

import importlib.util
import os
import pathlib
import sys

if __name__ == "__main__":  # nothing beside this file may stand for a package
    sys.path[:] = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]
    sys.modules["keras"] = sys.modules["keras_distill"] = None

import numpy as np

ONLY = "__only__"  # the one input, where its name is not known


def serving(path, given):
    """A SavedModel by TensorFlow, on the CPU."""
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
    given = named(given, specs)
    got = serve(**{name: tf.cast(value, specs[name].dtype) for name, value in given.items()})
    wide = {k: tf.cast(v, tf.float64) if v.dtype.is_floating else v for k, v in got.items()}
    return {name: value.numpy() for name, value in wide.items()}


def load_text_operations(tf):
    """Registers the operations of tensorflow-text; the package itself would import Keras."""
    spec = importlib.util.find_spec("tensorflow_text")
    if spec is None:
        sys.exit("The signature `text` needs tensorflow-text: run `pip install tensorflow-text`.")
    for file in sorted(pathlib.Path(spec.origin).parent.glob("python/ops/_*.so")):
        tf.load_op_library(str(file))


def litert(path, given):
    """A `.tflite` file by LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(path).get_signature_runner("serving_default")
    details = runner.get_input_details()
    given = named(given, details)
    for name, value in given.items():
        given[name] = quantized(value, details[name])
    sizes = {int(each["shape_signature"][0]) for each in details.values()}
    results = runner.get_output_details()

    def run(batch):
        return {n: dequantized(v, results[n]) for n, v in runner(**batch).items()}

    return in_batches(run, given, sizes)


def quantized(value, detail):
    """An array as an input takes it: integers where the input holds quantized numbers."""
    scale, zero = detail["quantization"]
    if np.issubdtype(detail["dtype"], np.integer) and scale and value.dtype.kind == "f":
        limits = np.iinfo(detail["dtype"])
        value = np.clip(np.round(value / scale) + zero, limits.min, limits.max)
    return value.astype(detail["dtype"])


def dequantized(value, detail):
    """The numbers that an output stands for."""
    scale, zero = detail["quantization"]
    if value.dtype.kind in "iu" and scale:
        return ((value.astype("float64") - zero) * scale).astype("float32")
    return value


def onnx(path, given):
    """An `.onnx` file by ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    kinds = {"float": "float32", "double": "float64", "float16": "float16"}
    inputs = {each.name: each for each in session.get_inputs()}
    given = named(given, inputs)
    for name, value in given.items():
        kind = inputs[name].type[len("tensor(") : -1]
        given[name] = value.astype(kinds.get(kind, kind))
    names = [each.name for each in session.get_outputs()]
    sizes = {each.shape[0] if isinstance(each.shape[0], int) else -1 for each in inputs.values()}
    return in_batches(lambda batch: dict(zip(names, session.run(names, batch))), given, sizes)


def openvino(path, given):
    """A folder with `model.xml` by OpenVINO, which computes in float32."""
    import openvino as ov

    # A CPU with bfloat16 computes in it unless it is told otherwise.
    precision = {"INFERENCE_PRECISION_HINT": "f32"}
    model = ov.Core().compile_model(f"{path}/model.xml", "CPU", precision)
    inputs = {each.get_any_name(): each for each in model.inputs}
    given = named(given, inputs)
    for name, value in given.items():
        given[name] = value.astype(inputs[name].get_element_type().to_dtype())
    shapes = [each.get_partial_shape()[0] for each in model.inputs]
    sizes = {-1 if size.is_dynamic else size.get_length() for size in shapes}

    def run(batch):
        return {each.get_any_name(): np.array(value) for each, value in model(batch).items()}

    return in_batches(run, given, sizes)


def named(given, inputs):
    """The arrays by the names of the inputs."""
    if list(given) == [ONLY] and len(inputs) == 1:
        return {name: given[ONLY] for name in inputs}
    if set(given) != set(inputs):
        sys.exit(f"The model's inputs are {sorted(inputs)}. Received: {sorted(given)}")
    return dict(given)


def in_batches(run, given, sizes):
    """Runs all examples at once, or as many at a time as the model takes.

    Args:
        run: A function from a batch to its outputs.
        given: The inputs.
        sizes: The batch sizes of the inputs; below 1 where any will do.
    """
    fixed = max(sizes)
    if fixed < 1:
        return run(given)
    count = len(next(iter(given.values())))
    rows = np.minimum(np.arange(-(-count // fixed) * fixed), count - 1)  # fills the last batch up
    found = [run({n: v[part] for n, v in given.items()}) for part in rows.reshape(-1, fixed)]
    return {n: np.concatenate([each[n] for each in found])[:count] for n in found[0]}


def main(kind, path, inputs, outputs):
    """Runs the model on the inputs and writes the outputs."""
    run = {"serving": serving, "litert": litert, "onnx": onnx, "openvino": openvino}[kind]
    with np.load(inputs) as given:
        given = dict(given)
    np.savez(outputs, **run(path, given))


if __name__ == "__main__":
    main(*sys.argv[1:])
