"""Writes a trained model for use elsewhere: a `.keras` file, or a SavedModel for TF Serving.

Everything here works on any Keras model; nothing knows how the model was trained.
"""

import os
import shutil
import tempfile

import keras
import numpy as np
from keras import tree

from keras_distill import _backend

# Operations of a graph that only hand on what the head computed.
_PASSING = ("Identity", "Cast", "Reshape", "Squeeze")


def write_student(model, path):
    """Saves a model as a `.keras` file without what it was trained with.

    The file holds neither the optimizer nor the compiled loss and metrics. It is written beside
    `path` and then moved there, so that a reader never sees half a file.

    Args:
        model: a built `keras.Model`.
        path: where to write; ends in `.keras`. An existing file is replaced.

    Returns:
        The path, a string.

    Raises:
        ValueError: where `path` does not end in `.keras`, or the model is not built.
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


def write_saved_model(
    model,
    path,
    name=None,
    labels=None,
    *,
    version=1,
    top_k=3,
    from_logits=None,
    input_signature=None,
):
    """Writes a model as a SavedModel in TF Serving's layout, `path/name/version`.

    Its signatures are `serve`, which is also `serving_default`, and, for a model with one output
    of shape `(batch, classes)`, `classify`. `serve` returns `{"logits": ...}`, or
    `{"probabilities": ...}` where the model itself ends in a softmax or sigmoid, or the model's
    own dict of outputs. `classify` returns the `top_k` likeliest `classes` and their `scores`,
    which are probabilities. It is written to a temporary folder beside, then moved.

    Args:
        model: a built `keras.Model`.
        path: the folder that TF Serving watches; made if need be.
        name: the name to serve under. Defaults to the model's.
        labels: what `classify` calls the classes, strings or integers in the order of the
            model's output. Defaults to their indices.
        version: a positive integer. TF Serving serves the highest.
        top_k: how many classes `classify` returns, or all where there are fewer.
        from_logits: whether the one output is logits. `None` reads it off the model's last
            operation: a softmax or sigmoid gives probabilities, anything else logits.
        input_signature: a list with a `keras.InputSpec` (or a dict or list of them) for each
            argument of the model. Needed only by a subclassed model whose inputs are not floats.
            Defaults to `signature_of(model)`.

    Returns:
        The version's folder, a string.

    Raises:
        ValueError: for a model that is not built, and where `labels` do not fit its output.
        FileExistsError: where this version is there already.
        ImportError: where TensorFlow is not installed.

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
        raise FileExistsError(
            f"A served version is never overwritten: remove the folder, or give "
            f"another `name` or a higher `version`. Received: {folder!r}"
        )
    archive = _archive(model, labels, top_k, from_logits, input_signature or signature_of(model))
    os.makedirs(parent, exist_ok=True)
    temporary = tempfile.mkdtemp(dir=parent, prefix=".tmp_")  # not a number: never served
    try:
        archive.write_out(os.path.join(temporary, str(version)), verbose=False)
        os.rename(os.path.join(temporary, str(version)), folder)
    finally:
        shutil.rmtree(temporary)
    return folder


def random_inputs(model, count=8, seed=0):
    """Inputs that a built model takes, to try it on.

    Args:
        model: a `keras.Model` of one input, or of several in a dict or a functional model.
        count: how many examples.
        seed: of the random numbers: floats in [0, 1), or integers and booleans of 0 and 1.

    Returns:
        An array, or a dict of arrays by input name where there are several.

    Raises:
        ValueError: where the model takes several inputs that have no names.
    """
    generator = np.random.default_rng(seed)
    signature = signature_of(model)
    specs = tree.flatten(signature)
    if not all(spec.name for spec in specs) and len(specs) > 1:
        raise ValueError(
            "A model of several inputs must take them in a dict. "
            f"Received: {model.name!r}, which takes {len(specs)} without names"
        )
    arrays = [_random(spec, count, generator) for spec in specs]
    if len(arrays) == 1 and not isinstance(signature[0], dict):
        return arrays[0]
    return {spec.name: array for spec, array in zip(specs, arrays, strict=True)}


def _random(spec, count, generator):
    shape = (count, *(size or 8 for size in spec.shape[1:]))
    if "int" in spec.dtype or spec.dtype == "bool":
        return generator.integers(0, 2, shape).astype(spec.dtype)
    return generator.random(shape).astype(spec.dtype)


def _check_built(model):
    if not model.built:
        raise ValueError(
            "The model must be built before it is written: call it once on a batch. "
            f"Received: {model.name!r}, not built"
        )


def _archive(model, labels, top_k, from_logits, signature):
    """The archive, with `serve` and, where the model classifies, `classify`."""
    tf = _backend.tensorflow("A SavedModel")
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
        raise ValueError(
            "`labels` need a model with one output of shape (batch, classes). "
            f"Received: outputs={outputs}"
        )
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
    tf = _backend.tensorflow("A SavedModel")
    names = list(range(classes)) if labels is None else list(labels)
    if len(names) != classes:
        raise ValueError(
            f"`labels` must hold one name per class, {classes} in all. "
            f"Received: {len(names)} labels"
        )

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


def signature_of(model):
    """What a built model is served with: a specification for each argument of the model.

    It is as the model was built, but for the padding masks of a KerasHub task with a preprocessor,
    which are booleans, as the preprocessor makes them; the model casts them. Give it to
    `model.export(path, input_signature=signature_of(model))`, and what the preprocessor returns
    can be given to the served signature as it is.

    Args:
        model: A built `keras.Model`.

    Returns:
        A list with a `keras.InputSpec` (or a dict or list of them) for each argument.
    """
    signature = _built_signature(model)
    if getattr(model, "preprocessor", None) is None:  # KerasHub's tasks alone have one
        return signature
    return [{name: _made(spec, name) for name, spec in each.items()} if isinstance(each, dict)
            else each for each in signature]


def _made(spec, name):
    """A specification with the dtype that KerasHub's preprocessors make."""
    dtype = "bool" if name.endswith("padding_mask") else spec.dtype
    return keras.InputSpec(shape=spec.shape, dtype=dtype, name=spec.name)


def _built_signature(model):
    """One specification for each argument of the model, as it was built."""
    if isinstance(model, keras.Sequential):
        return [_spec(model.inputs[0])]
    if getattr(model, "inputs", None):
        return [_named(model.input, _spec)]
    config = model.get_build_config() or {}
    shapes = config.get("shapes_dict") or {"x": config.get("input_shape")}

    def spec(shape, name=None):
        return keras.InputSpec(shape=(None, *shape[1:]), dtype=model.input_dtype, name=name)

    return [
        _named(shape, spec) if isinstance(shape, dict) else tree.map_shape_structure(spec, shape)
        for shape in shapes.values()
    ]


def _spec(tensor, name=None):
    return keras.InputSpec(
        shape=(None, *tensor.shape[1:]), dtype=tensor.dtype, name=name or tensor.name
    )


def _named(structure, spec):
    """The specifications of a structure; an entry of a dict is served under its key."""
    if isinstance(structure, dict):
        return {key: spec(value, key) for key, value in structure.items()}
    return tree.map_structure(spec, structure)


def _tensor_spec(spec):
    return _backend.tensorflow("A SavedModel").TensorSpec(spec.shape, spec.dtype, name=spec.name)
