"""Writes a trained model for use elsewhere: a `.keras` file, or a SavedModel for TF Serving.

Everything here works on any Keras model; nothing knows how the model was trained.
"""
import os
import shutil
import subprocess
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf
from keras import tree

# Operations of a graph that only hand on what the head computed.
_PASSING = ("Identity", "Cast", "Reshape", "Squeeze")

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


def write_student(model, path):
    """Saves a model as a `.keras` file without what it was trained with.

    The file holds neither the optimizer nor the compiled loss and metrics. It is written beside
    `path` and then moved there, so that a reader never sees half a file.

    Args:
        model: A built `keras.Model`.
        path: Where to write; ends in `.keras`. An existing file is replaced.

    Returns:
        The path, a string.

    Raises:
        ValueError: `path` does not end in `.keras`, or the model is not built.
    """
    path = os.path.abspath(path)
    if not path.endswith(".keras"):
        raise ValueError(f"`path` must end in '.keras'. Received: path={path!r}")
    _check_built(model)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path), prefix=".tmp_") as folder:
        temporary = os.path.join(folder, "model.keras")
        model.save(temporary)
        if getattr(model, "compiled", False):  # our own file, so nothing in it needs distrust
            keras.saving.load_model(temporary, compile=False, safe_mode=False).save(temporary)
        os.replace(temporary, path)
    return path


def write_saved_model(model, path, name=None, labels=None, *, version=1, top_k=3,
                      from_logits=None, input_signature=None):
    """Writes a model as a SavedModel in TF Serving's layout, `path/name/version`.

    Its signatures are `serve`, which is also `serving_default`, and, for a model with one output
    of shape `(batch, classes)`, `classify`. `serve` returns `{"logits": ...}`, or
    `{"probabilities": ...}` where the model itself ends in a softmax or sigmoid, or the model's
    own dict of outputs. `classify` returns the `top_k` likeliest `classes` and their `scores`,
    which are probabilities. It is written to a temporary folder beside, then moved.

    Args:
        model: A built `keras.Model`.
        path: The folder that TF Serving watches; made if need be.
        name: The name to serve under. Defaults to the model's.
        labels: What `classify` calls the classes, strings or integers in the order of the
            model's output. Defaults to their indices.
        version: A positive integer. TF Serving serves the highest.
        top_k: How many classes `classify` returns, or all where there are fewer.
        from_logits: Whether the one output is logits. `None` reads it off the model's last
            operation: a softmax or sigmoid gives probabilities, anything else logits.
        input_signature: A list with a `keras.InputSpec` (or a dict or list of them) for each
            argument of the model. Needed only by a subclassed model whose inputs are not floats.

    Returns:
        The version's folder, a string.

    Raises:
        ValueError: The model is not built, or `labels` do not fit its output.
        FileExistsError: This version is there already.

    Example:

    ```python
    folder = write_saved_model(student, "serving", name="digits", labels="0123456789")
    check_saved_model(folder, images, student.predict(images))
    ```
    """
    _check_built(model)
    if not isinstance(version, int) or version < 1:
        raise ValueError(f"`version` must be a positive integer. Received: version={version!r}")
    parent = os.path.join(os.path.abspath(path), name or model.name)
    folder = os.path.join(parent, str(version))
    if os.path.exists(folder):
        raise FileExistsError(f"A served version is never overwritten: remove the folder, or give "
                              f"another `name` or a higher `version`. Received: {folder!r}")
    archive = _archive(model, labels, top_k, from_logits, input_signature or _signature(model))
    os.makedirs(parent, exist_ok=True)
    temporary = tempfile.mkdtemp(dir=parent, prefix=".tmp_")  # not a number: never served
    try:
        archive.write_out(os.path.join(temporary, str(version)), verbose=False)
        os.rename(os.path.join(temporary, str(version)), folder)
    finally:
        shutil.rmtree(temporary)
    return folder


def check_saved_model(path, inputs, expected, atol=1e-5):
    """Reloads a SavedModel in a fresh process by TensorFlow alone and compares its outputs.

    `max |serving_default(inputs) - expected|` over all outputs. Keras cannot be imported in that
    process, and it runs on the CPU.

    Args:
        path: A SavedModel's folder, such as `write_saved_model` returns.
        inputs: An array, or a dict of arrays by input name.
        expected: What the model returned for them: an array, or a dict by output name.
        atol: The largest difference allowed.

    Returns:
        The largest absolute difference, a float.

    Raises:
        ValueError: The outputs differ by more than `atol`, or in name or shape.
        RuntimeError: The fresh process failed; the message ends with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, got = os.path.join(folder, "inputs.npz"), os.path.join(folder, "outputs.npz")
        np.savez(given, **(inputs if isinstance(inputs, dict) else {"__only__": inputs}))
        _run_fresh(os.path.abspath(path), given, got)
        with np.load(got) as outputs:
            difference = _difference(dict(outputs), expected)
    if not difference <= atol:  # NaN too
        raise ValueError(f"The reloaded SavedModel must agree with the model to atol={atol}. "
                         f"Received: a largest difference of {difference}, in {path!r}")
    return difference


def _check_built(model):
    if not model.built:
        raise ValueError("The model must be built before it is written: call it once on a batch. "
                         f"Received: {model.name!r}, not built")


def _archive(model, labels, top_k, from_logits, signature):
    """The archive, with `serve` and, where the model classifies, `classify`."""
    signature = tree.map_structure(_tensor_spec, signature)
    forward = tf.function(lambda *args: model(*args, training=False), signature, autograph=False)
    graph = forward.get_concrete_function()
    outputs = graph.structured_outputs
    single = not isinstance(outputs, (dict, list, tuple))
    if from_logits is None:
        from_logits = not (single and _last_operation(graph) in ("Softmax", "Sigmoid"))
    archive = keras.export.ExportArchive()
    archive.track(model)
    serve = _serve(forward, "logits" if from_logits else "probabilities")
    archive.add_endpoint("serve", serve, signature)
    if single and len(outputs.shape) == 2 and (outputs.shape[-1] or 0) > 1:
        classify = _classify(forward, outputs.shape[-1], labels, top_k, from_logits)
        archive.add_endpoint("classify", classify, signature)
    elif labels is not None:
        raise ValueError("`labels` need a model with one output of shape (batch, classes). "
                         f"Received: outputs={outputs}")
    return archive


def _serve(forward, output_name):
    def serve(*args):
        outputs = forward(*args)
        if isinstance(outputs, dict):
            return dict(outputs)
        if isinstance(outputs, (list, tuple)):
            return {f"output_{i}": output for i, output in enumerate(outputs)}
        return {output_name: outputs}

    return serve


def _classify(forward, classes, labels, top_k, from_logits):
    names = list(range(classes)) if labels is None else list(labels)
    if len(names) != classes:
        raise ValueError(f"`labels` must hold one name per class, {classes} in all. "
                         f"Received: {len(names)} labels")

    def classify(*args):
        scores = tf.cast(forward(*args), tf.float32)
        scores = tf.nn.softmax(scores) if from_logits else scores
        values, indices = tf.math.top_k(scores, k=min(top_k, classes))
        return {"classes": tf.gather(tf.constant(names), indices), "scores": values}

    return classify


def _last_operation(graph):
    """The kind of the graph's last operation that computes anything."""
    operation = graph.outputs[0].op
    while operation.type in _PASSING:
        operation = operation.inputs[0].op
    return operation.type


def _signature(model):
    """One specification for each argument of the model, as it was built."""
    if isinstance(model, keras.Sequential):
        return [_spec(model.inputs[0])]
    if getattr(model, "inputs", None):
        return [_named(model.input, _spec)]
    config = model.get_build_config() or {}
    shapes = config.get("shapes_dict") or {"x": config.get("input_shape")}

    def spec(shape, name=None):
        return keras.InputSpec(shape=(None, *shape[1:]), dtype=model.input_dtype, name=name)

    return [_named(shape, spec) if isinstance(shape, dict)
            else tree.map_shape_structure(spec, shape) for shape in shapes.values()]


def _spec(tensor, name=None):
    return keras.InputSpec(shape=(None, *tensor.shape[1:]), dtype=tensor.dtype,
                           name=name or tensor.name)


def _named(structure, spec):
    """The specifications of a structure; an entry of a dict is served under its key."""
    if isinstance(structure, dict):
        return {key: spec(value, key) for key, value in structure.items()}
    return tree.map_structure(spec, structure)


def _tensor_spec(spec):
    return tf.TensorSpec(spec.shape, spec.dtype, name=spec.name)


def _run_fresh(*arguments):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run([sys.executable, "-c", _RELOAD, *arguments], env=environment,
                          capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError("The SavedModel could not be run in a fresh process: "
                           f"{done.stderr.strip()[-2000:]}")


def _difference(outputs, expected):
    if not isinstance(expected, dict):
        if len(outputs) != 1:
            raise ValueError(f"`expected` must be a dict with {sorted(outputs)}. "
                             "Received: one array")
        expected = dict.fromkeys(outputs, expected)
    if set(expected) != set(outputs):
        raise ValueError(f"`expected` must name the SavedModel's outputs, {sorted(outputs)}. "
                         f"Received: {sorted(expected)}")
    return max(_distance(name, outputs[name], np.asarray(expected[name])) for name in outputs)


def _distance(name, output, expected):
    if output.shape != expected.shape:
        raise ValueError(f"`expected` must have the shape of output {name!r}, {output.shape}. "
                         f"Received: {expected.shape}")
    return float(np.max(np.abs(output - expected.astype(output.dtype)), initial=0.0))
