"""The files beside a SavedModel: class names, provenance, a model card, warm-up requests."""

import html
import importlib.util
import json
import os
import platform

import keras
import numpy as np

LABELS, PROVENANCE, CARD = "labels.txt", "provenance.json", "model_card.md"
TEXT_NEEDS = "The server needs the operations of tensorflow-text, for the signature `text`."
WARM_UP = os.path.join("assets.extra", "tf_serving_warmup_requests")


class ServingFolder:
    """A version of a served model.

    Args:
        archive: The `keras.export.ExportArchive`.
        name: The name of the model.
        labels: The names of the classes, or `None`.
        provenance: A dict that JSON can hold, about the student's origin, such as its teacher,
            recipe, temperature, data and metrics; or `None`.
        given: The inputs of the warm-up requests, a dict of arrays by input name, or `None` for no
            requests, for example if the inputs are random.
        note: The server's needs beside TensorFlow, a sentence; empty if there are none.
    """

    def __init__(self, archive, name, labels=None, provenance=None, given=None, note=""):
        self.archive, self.name, self.given, self.note = archive, name, given, note
        self.labels = None if labels is None else [str(label) for label in labels]
        self.provenance = json.loads(json.dumps(provenance or {}))  # raises before any writing
        self.provenance.setdefault("versions", _versions())

    def write(self, path):
        """Writes the SavedModel to a new folder, and the other files beside it."""
        self.archive.write_out(path, verbose=False)
        os.makedirs(os.path.join(path, "assets"), exist_ok=True)
        if self.labels is not None:
            _write(os.path.join(path, "assets", LABELS), "\n".join(self.labels) + "\n")
        told = json.dumps(self.provenance, indent=1, ensure_ascii=False)
        _write(os.path.join(path, "assets", PROVENANCE), told + "\n")
        warmed = self.given is not None and can_warm_up()
        if warmed:
            _write_warm_up(os.path.join(path, WARM_UP), self.name, self.given)
        _write(os.path.join(path, CARD), self._card(path, warmed))

    def _card(self, path, warmed):
        import tensorflow as tf

        signatures = tf.saved_model.load(path).signatures
        lines = [f"# {_plain(self.name)}", "", "A student trained by knowledge distillation.", ""]
        lines += ["## Signatures", ""]
        for name, function in sorted(signatures.items()):
            takes = _tensors(function.structured_input_signature[1])
            lines.append(f"- `{name}`: {takes} → {_tensors(function.structured_outputs)}")
        lines += ["", self.note] if self.note else []
        lines += ["", "## Warm-up", "", _warm_up_told(warmed), ""]
        if self.labels is not None:
            lines += ["## Classes", "", ", ".join(map(_plain, self.labels)), ""]
        lines += ["## Provenance", ""]
        lines += [f"- {_plain(key)}: {_plain(_short(value))}"
                  for key, value in self.provenance.items()]  # fmt: skip
        return "\n".join(lines) + "\n"


def can_warm_up():
    """Returns whether the package with TF Serving's requests is installed."""
    return importlib.util.find_spec("tensorflow_serving") is not None


def _write_warm_up(path, name, given, count=8):
    """Writes requests that TF Serving answers before any other, to warm up."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    os.makedirs(os.path.dirname(path))
    with tf.io.TFRecordWriter(path) as writer:
        for size in dict.fromkeys((1, min(count, len(next(iter(given.values())))))):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = name
            request.model_spec.signature_name = "serving_default"
            for key, value in given.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(np.asarray(value[:size])))
            log = prediction_log_pb2.PredictLog(request=request)
            record = prediction_log_pb2.PredictionLog(predict_log=log)
            writer.write(record.SerializeToString())


def _warm_up_told(warmed):
    if warmed:
        return "TF Serving first answers the requests in `assets.extra`, made from real inputs."
    return (
        "None. To have warm-up requests, give real inputs and install `tensorflow-serving-api` "
        "(`pip install keras-distill[serving]`)."
    )


def _versions():
    """Returns the versions of the packages that export the student."""
    import tensorflow as tf

    from keras_distill import __version__

    return {"keras_distill": __version__, "keras": keras.version(), "tensorflow": tf.__version__,
            "python": platform.python_version()}  # fmt: skip


def _tensors(specs):
    named = specs.items() if isinstance(specs, dict) else ((spec.name, spec) for spec in specs)
    return ", ".join(f"`{name}` {spec.dtype.name} {_shape(spec.shape)}" for name, spec in named)


def _shape(shape):
    if shape.rank is None:
        return "(...)"
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"


def _short(value):
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plain(text):
    """Escapes text for Markdown and HTML."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{sign}" if sign in "\\`*_[]#|!" else sign for sign in escaped)


def _write(path, content):
    with open(path, "w", encoding="utf-8") as file:
        file.write(content)
