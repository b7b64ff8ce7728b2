"""Writes a trained model for use elsewhere: a `.keras` file, or a SavedModel for TF Serving.

Everything here works on any Keras model, however it was trained.
"""

import os
from collections.abc import Sequence
from os import PathLike

import keras
from keras import tree

from keras_distill import _backend, _files
from keras_distill.export import endpoints, places, unfinished
from keras_distill.export.signature import check_built, signature_of, tensor_spec

CLASSIFY = ("classify",)  # for models with classes
DEFAULT = ("classify", "image_bytes", "examples")  # these need only TensorFlow
_LACKS = {
    "classify": "has no single output of shape (batch, classes)",
    "image_bytes": "does not take a single image of a fixed size with 1 or 3 channels",
    "examples": "has an input whose size is not fixed",
    "text": "has no preprocessor with a tokenizer",
    "generate": "is not a causal language model of KerasHub",
    "generate_sampled": "is not a causal language model of KerasHub",
}
# Operations of a graph that only pass on the output of the head.
_PASSING = ("Identity", "Cast", "Reshape", "Squeeze")


def write_student(model: keras.Model, path: str | PathLike[str]) -> str:
    """Saves a model as a `.keras` file without its optimizer, loss and metrics.

    The file holds neither the optimizer nor the compiled loss and metrics. It is written under a
    temporary name beside `path` and then renamed, so that a reader never sees a part of a file.

    Args:
        model: a built `keras.Model`.
        path: the file to write, which ends in `.keras`. An existing file is replaced.

    Returns:
        The path, a string.

    Raises:
        ValueError: if `path` does not end in `.keras`, or the model is not built.

    Example:

    ```python
    export.write_student(student, "student.keras")
    ```
    """
    path = os.path.abspath(path)
    if not path.endswith(".keras"):
        raise ValueError(f"`path` must end in '.keras'. Received: path={path!r}")
    check_built(model)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with unfinished.folder_in(os.path.dirname(path)) as folder:
        temporary = os.path.join(folder, "model.keras")
        model.save(temporary)
        if getattr(model, "compiled", False):  # this package wrote the file, so it can be trusted
            keras.saving.load_model(temporary, compile=False, safe_mode=False).save(temporary)
        os.replace(temporary, path)
    return path


def write_saved_model(
    model: keras.Model,
    path: str | PathLike[str],
    name: str | None = None,
    labels: Sequence | None = None,
    *,
    version: int = 1,
    top_k: int = 3,
    from_logits: bool | None = None,
    input_signature: list | None = None,
) -> str:
    """Writes a model as a SavedModel in TF Serving's layout, `path/name/version`.

    Its signatures are `serve`, which is also `serving_default`, and, for a model with one output
    of shape `(batch, classes)`, `classify`. `serve` returns `{"logits": ...}`, or
    `{"probabilities": ...}` if the model itself ends in a softmax or sigmoid, or the model's own
    dict of outputs. `classify` returns the `top_k` most probable `classes` and their `scores`,
    which are probabilities. The model is written to a temporary folder beside its place, then
    moved.

    Args:
        model: a built `keras.Model`.
        path: the folder that TF Serving watches. It is made if needed.
        name: the name to serve under. Defaults to the model's.
        labels: the names of the classes for `classify`, strings or integers in the order of the
            model's output. Defaults to their indices.
        version: a positive integer. TF Serving serves the highest.
        top_k: how many classes `classify` returns, or all if there are fewer.
        from_logits: whether the one output is logits. `None` decides by the model's last
            operation. A softmax or sigmoid gives probabilities, anything else logits.
        input_signature: a list with a `keras.InputSpec` (or a dict or list of them) for each
            argument of the model. Needed only by a subclassed model whose inputs are not floats.
            Defaults to `signature_of(model)`.

    Returns:
        The version's folder, a string.

    Raises:
        ValueError: if the model is not built, or `labels` do not fit its output.
        FileExistsError: if this version exists.
        ImportError: if TensorFlow is not installed.

    Example:

    ```python
    folder = export.write_saved_model(student, "serving", name="digits", labels="0123456789")
    export.check_saved_model(folder, x, student.predict(x))
    ```
    """
    check_built(model)
    if not isinstance(version, int) or version < 1:
        raise ValueError(f"`version` must be a positive integer. Received: version={version!r}")
    parent = os.path.join(os.path.abspath(path), _files.checked_name("name", name or model.name))
    folder = os.path.join(parent, str(version))
    if os.path.exists(folder):
        raise FileExistsError(
            "This version exists, and an export never overwrites one. Delete the folder, or give "
            f"another `name` or a higher `version`. Received: {folder!r}"
        )
    archive = archive_of(model, labels, top_k, from_logits, input_signature or signature_of(model))
    os.makedirs(parent, exist_ok=True)
    with unfinished.folder_in(parent) as temporary:
        with places.plain(temporary) as plain:
            archive.write_out(os.path.join(plain, str(version)), verbose=False)
        os.rename(os.path.join(temporary, str(version)), folder)
    return folder


def archive_of(model, labels, top_k, from_logits, signature, signatures=CLASSIFY,
               image_range=(0.0, 1.0)):  # fmt: skip
    """Returns the archive, with `serve` and the other signatures that are asked for.

    Args:
        model: A built `keras.Model`.
        labels: The names of the classes, or `None` for their indices.
        top_k: How many classes `classify` returns.
        from_logits: Whether the one output is logits. `None` decides by the graph.
        signature: The result of `signature_of(model)`.
        signatures: Names out of `endpoints.SIGNATURES`. `None` stands for those of `DEFAULT` that
            suit the model. `"classify"` is left out if there are no classes.
        image_range: The least and greatest value of a pixel, for `"image_bytes"`.

    Raises:
        ValueError: If a signature is unknown or does not suit the model, or the labels do not fit.
    """
    tf = _backend.tensorflow("A SavedModel")
    signature = tree.map_structure(tensor_spec, signature)
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
    answer, found = serve, {}
    if single and len(outputs.shape) == 2 and (outputs.shape[-1] or 0) > 1:
        answer = _classify(forward, outputs.shape[-1], labels, top_k, from_logits)
        found["classify"] = answer, signature
    elif labels is not None:
        raise ValueError(
            "`labels` needs a model with one output of shape (batch, classes). "
            f"Received: outputs={outputs}"
        )
    for name in _checked_signatures(signatures):
        endpoint = found.get(name) or _endpoint(name, model, answer, signature, image_range)
        if endpoint is not None:
            archive.add_endpoint(name, *endpoint)
        elif signatures not in (None, CLASSIFY):  # asked for by name
            raise ValueError(f"The model {model.name!r} cannot have the signature `{name}`: it "
                             f"{_LACKS[name]}. Leave the signature out.")  # fmt: skip
    return archive


def _checked_signatures(signatures):
    names = list(DEFAULT if signatures is None else dict.fromkeys(signatures))
    unknown = [name for name in names if name not in endpoints.SIGNATURES]
    if unknown:
        raise ValueError(
            f"`signatures` may name {', '.join(endpoints.SIGNATURES)}. Leave `serving_default` "
            f"out, since every export has it. Received: {', '.join(map(str, unknown))}"
        )
    return names


def _endpoint(name, model, answer, signature, image_range):
    """Returns `(function, its signature)`, or `None` if the model cannot have it."""
    if name == "image_bytes":
        return endpoints.image_bytes(model, answer, signature, image_range)
    if name == "examples":
        return endpoints.examples(answer, signature)
    if name == "text":
        return endpoints.text(model, answer)
    if name in ("generate", "generate_sampled"):
        return endpoints.generate(model, sampled=name == "generate_sampled")
    return None


def _serve(forward, output_name):
    def serve(*args):
        outputs = by_name(forward(*args))
        return outputs if isinstance(outputs, dict) else {output_name: outputs}

    return serve


def by_name(outputs):
    """Returns a model's outputs by their served names; the only output as it is."""
    if isinstance(outputs, dict):
        return dict(outputs)
    if isinstance(outputs, (list, tuple)):
        return {f"output_{i}": output for i, output in enumerate(outputs)}
    return outputs


def _classify(forward, classes, labels, top_k, from_logits):
    tf = _backend.tensorflow("A SavedModel")
    names = list(range(classes)) if labels is None else list(labels)
    if len(names) != classes:
        raise ValueError(
            f"`labels` must hold one name for each of the {classes} classes. "
            f"Received: {len(names)} labels"
        )

    def classify(*args):
        scores = tf.cast(forward(*args), tf.float32)
        scores = tf.nn.softmax(scores) if from_logits else scores
        values, indices = tf.math.top_k(scores, k=min(top_k, classes))
        return {"classes": tf.gather(tf.constant(names), indices), "scores": values}

    return classify


def _last_operation(graph):
    """Returns the kind of the graph's last operation that computes something."""
    operation = graph.outputs[0].op
    while operation.type in _PASSING:
        operation = operation.inputs[0].op
    return operation.type
