"""Exports a trained student to the formats in which it is used, and checks each of them."""

import os
from collections.abc import Sequence
from os import PathLike
from typing import Any

import keras

from keras_distill import _backend, _files
from keras_distill._keras import graph
from keras_distill.export import arguments, litert_file, places
from keras_distill.export.exported import Exported, Job
from keras_distill.export.formats import FORMATS, checked_formats
from keras_distill.export.given import (
    answers_to,
    arguments_of,
    checked_inputs,
    checked_targets,
)
from keras_distill.export.saved_model import archive_of
from keras_distill.export.serving_folder import TEXT_NEEDS, ServingFolder
from keras_distill.export.signature import check_built, random_inputs, signature_of

RANDOM = 8  # the number of random examples if no real ones are given


def write(
    student: keras.Model,
    directory: str | PathLike[str],
    formats: str | Sequence[str] = ("serving",),
    *,
    name: str | None = None,
    quantize: str = "none",
    exit: str | None = None,
    inputs: Any = None,
    targets: Any = None,
    calibration: Any = None,
    labels: Sequence[str] | None = None,
    batch: int | None = None,
    version: int | None = None,
    agreement: float = 0.9,
    signatures: Any = None,
    image_range: tuple[float, float] = (0.0, 1.0),
    provenance: dict | None = None,
) -> list[Exported]:
    """Exports a student to one or more formats, and checks each in its own runtime.

    Each format is written beside its place, loaded by its own runtime in a process that can import
    neither Keras nor this package, and compared with the student. A model that passes is renamed to
    `directory/name/version` for TF Serving, and to `directory/name.tflite`, `.onnx` and
    `.openvino`, or `name-QUANTIZE` with these endings. A model that does not pass gets a name that
    ends in `.failed`, which no server loads.

    Args:
        student: A built `keras.Model`.
        directory: The folder to write into. It is made if needed.
        formats: Names out of `"serving"`, `"litert"`, `"onnx"` and `"openvino"`.
        name: The name of the exported model, of letters, digits, `_`, `.` and `-`. Defaults to the
            student's name.
        quantize: `"none"`, `"float16"`, `"dynamic_int8"`, `"int8"` or `"int4"`. A SavedModel
            cannot be quantized. LiteRT takes all of them, ONNX `"dynamic_int8"` and `"int8"`,
            OpenVINO `"float16"`.
        exit: The name of one output of a functional model with a dict of outputs. Layers that this
            output does not need are left out. Defaults to `None`, which is all outputs.
        inputs: The inputs to compare on, an array, a list of arrays in the order of the model's
            inputs, or a dict of arrays by input name. Defaults to `None`, which is random inputs.
            They tell little about a quantized model.
        targets: The targets for `inputs`, class ids or numbers. They give the metric of student
            and exported model. Defaults to `None`.
        calibration: Inputs from which `"int8"` takes the ranges of its numbers. Defaults to
            `inputs`.
        labels: The names of the classes. Defaults to their indices.
        batch: A fixed batch size for the formats other than `"serving"`, as LiteRT.js needs it.
            Defaults to `None`, which is any size, or 1 if LiteRT cannot take any size.
        version: The version number for TF Serving. Defaults to the next free one.
        agreement: The minimum share of answers, from 0 to 1, in which a quantized model agrees
            with the student. Numbers may be away from the student's by what it lacks to 1, as a
            share of their standard deviation, on average. Defaults to `0.9`.
        signatures: Further signatures of the SavedModel, beside `serving_default`, which takes
            tensors (token ids, for a language model). `"classify"` returns labels and scores,
            `"image_bytes"` takes JPEG or PNG files, `"examples"` serialized `tf.train.Example`s,
            `"text"` strings (the server then needs the operations of tensorflow-text), and
            `"generate"` and `"generate_sampled"` prompts of token ids, for a causal language
            model. Defaults to `None`, which is those of the first three that the student can have.
        image_range: The smallest and the largest pixel value of the student's inputs, for
            `"image_bytes"`. Defaults to `(0, 1)`.
        provenance: A dict that says where the student comes from, such as its teacher, recipe,
            temperature, data and metrics. JSON must be able to hold it. It is written beside the
            SavedModel, with the versions of the libraries. Defaults to `None`.

    Returns:
        A list with an `Exported` for each format. `str` of it describes the result in one line.

    Raises:
        ValueError: If an argument does not fit, a format lacks an operation of the student, or an
            exported model did not pass its check.
        FileExistsError: If one of the files or folders exists.
        TypeError: If the student is no Keras model.
        ImportError: If a package of a format is not installed.
        RuntimeError: If Keras runs on another backend than TensorFlow.

    Example:

    ```python
    for exported in export.write(student, "served", ["serving", "litert"], inputs=x):
        print(exported)
    ```
    """
    _check_backend()
    arguments.check_student(student)
    check_built(student)
    arguments.check_directory(directory)
    arguments.check_numbers(batch, agreement)
    arguments.check_provenance(provenance)
    formats = checked_formats(formats, quantize)
    labels, image_range = arguments.checked_labels(labels), arguments.checked_range(image_range)
    signatures = arguments.checked_signatures(signatures, formats)
    student = student if exit is None else _at_exit(student, exit)
    name = _files.checked_name("name", student.name if name is None else name)
    signature = signature_of(student)
    _check_numbers(formats, signature)
    paths = {kind: _path(directory, name, kind, quantize, version) for kind in formats}
    simulated = litert_file.quantization_of(student)
    if "litert" in formats and simulated not in (None, quantize):
        raise ValueError(
            f"The student was trained with the rounding of {simulated}. Export it with "
            f"`quantize={simulated!r}`. Received: quantize={quantize!r}"
        )
    if quantize == "int8" and simulated is None and calibration is None and inputs is None:
        raise ValueError(
            "`quantize='int8'` needs real inputs to calibrate on. Give `calibration` or `inputs`."
        )
    given = random_inputs(student, RANDOM) if inputs is None else inputs
    given = checked_inputs("inputs", given, signature)
    calibration = given if calibration is None else calibration
    calibration = checked_inputs("calibration", calibration, signature)
    expected = answers_to("inputs", student, arguments_of(given, signature))
    if calibration is not given and quantize != "none":
        answers_to("calibration", student, arguments_of(calibration, signature))
    targets = checked_targets(targets, given, expected)
    served = None
    if "serving" in formats:
        archive = archive_of(student, labels, 3, None, signature, signatures, image_range)
        real = None if inputs is None else given
        note = TEXT_NEEDS if "text" in (signatures or ()) else ""
        served = ServingFolder(archive, name, labels, provenance, real, note)
    job = Job(student, given, expected, targets, calibration, inputs is not None, agreement, batch,
              served)  # fmt: skip
    return [job.run(kind, path, "none" if kind == "serving" else quantize)
            for kind, path in paths.items()]  # fmt: skip


def _check_numbers(formats, signature):
    """Raises an error for a format without strings if the student reads some."""
    texts = [spec.name for spec in keras.tree.flatten(signature) if spec.dtype == "string"]
    plain = [each for each in formats if each != "serving"]
    if texts and plain:
        raise ValueError(
            "A student that reads strings can only be exported as 'serving'. For the other formats "
            "export the part after its text layer, `keras.Model(layer.output, student.output)`, "
            "and give the app the layer's vocabulary (`layer.get_vocabulary()`). "
            f"Received: formats={plain}, a student with strings in {', '.join(texts)}"
        )


def _check_backend():
    if _backend.NAME != "tensorflow":
        raise RuntimeError(
            "`export.write` needs the TensorFlow backend. Start a process with "
            "KERAS_BACKEND=tensorflow, load the student's `.keras` file, and export it there. "
            f"Received: {_backend.NAME}"
        )


def _at_exit(student, exit):
    outputs = graph.outputs(student)
    if not isinstance(outputs, dict) or exit not in outputs:
        known = ", ".join(outputs) if isinstance(outputs, dict) else "none, it has one output"
        raise ValueError(
            f"`exit` must name one of the student's outputs ({known}). Received: exit={exit!r}"
        )
    return keras.Model(graph.inputs(student), outputs[exit], name=student.name)


def _path(directory, name, kind, quantize, version):
    """Returns the path of a format; raises an error if it exists."""
    directory = os.path.abspath(directory)
    if kind == "serving":
        parent = os.path.join(directory, name)
        version = places.next_version(parent) if version is None else version
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ValueError(f"`version` must be a positive integer. Received: version={version!r}")
        path = os.path.join(parent, str(version))
    else:
        ending = "" if quantize == "none" else f"-{quantize}"
        path = os.path.join(directory, f"{name}{ending}{FORMATS[kind].ending}")
    if os.path.lexists(path):
        raise FileExistsError(
            "This export exists, and an export is never overwritten. Delete it, or give another "
            f"`name` or a higher `version`. Received: {path!r}"
        )
    return path
