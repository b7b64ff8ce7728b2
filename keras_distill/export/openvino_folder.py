"""Writes a model as a folder for OpenVINO, in float32 or with weights in float16."""

import os
import tempfile

from keras_distill.export.saved_model import archive_of

PACKAGES = ("tensorflow", "openvino")
QUANTIZATIONS = ("none", "float16")


def write(model, path, signature, *, quantize="none", calibration=None):
    """Writes a folder with `model.xml` and `model.bin`.

    OpenVINO computes in bfloat16 on a CPU that supports it. To compute in float32, compile the
    model with `{"INFERENCE_PRECISION_HINT": "f32"}`.

    Args:
        model: A built `keras.Model`.
        path: The folder to write. It must not exist.
        signature: The result of `signature_of(model)`.
        quantize: `"none"`, or `"float16"` for the weights.
        calibration: Not used.

    Raises:
        ValueError: If the model has an operation that OpenVINO lacks.
    """
    import openvino

    os.makedirs(path)
    with tempfile.TemporaryDirectory() as folder:
        archive_of(model, None, 1, None, signature, ()).write_out(folder, verbose=False)
        try:
            found = openvino.convert_model(folder)
        except Exception as error:  # any error of the converter
            found, said = None, " ".join(str(error).split())[:400]
    if found is None:
        raise ValueError(
            "OpenVINO cannot run this model. Export it to another format, or replace the layers "
            f"that it names. Received: {model.name!r}, {said}"
        )
    half = quantize == "float16"
    openvino.save_model(found, os.path.join(path, "model.xml"), compress_to_fp16=half)
