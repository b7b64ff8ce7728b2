"""Writes a model as an ONNX file, in float32 or in int8."""

import os
import tempfile
import warnings

import keras

from keras_distill._keras import graph

PACKAGES = ("tensorflow", "onnx", "tf2onnx", "onnxruntime")
QUANTIZATIONS = ("none", "dynamic_int8", "int8")


def write(model, path, signature, *, quantize="none", calibration=None):
    """Writes an `.onnx` file by Keras's own export, which uses tf2onnx.

    Args:
        model: A built `keras.Model`.
        path: The file to write.
        signature: The result of `signature_of(model)`.
        quantize: One of `QUANTIZATIONS`. ONNX Runtime's quantizer applies it.
        calibration: A dict of arrays by input name, for `"int8"`. Defaults to `None`.

    Raises:
        ValueError: If the model has an operation that ONNX or its converter lacks.
    """
    with tempfile.TemporaryDirectory() as folder:
        whole = os.path.join(folder, "float.onnx")
        _convert(model, whole if quantize != "none" else path, signature)
        if quantize != "none":
            try:
                _quantize(whole, path, quantize, calibration)
            except Exception as error:  # of any class
                said = " ".join(str(error).split())[:300]
                raise ValueError(
                    f"ONNX Runtime's quantizer cannot quantize this model to {quantize}. Choose "
                    f"another `quantize`. Received: quantize={quantize!r}, {said}"
                ) from error


def in_inference(model):
    """Returns a model that is called in inference mode by whoever does not say so.

    Keras's export to ONNX does not. Layers that augment images then change them at random.
    """
    if not graph.is_graph(model):
        return model
    inputs = graph.inputs(model)
    return keras.Model(inputs, model(inputs, training=False), name=model.name)


def _convert(model, path, signature):
    with warnings.catch_warnings():  # tf2onnx uses old names of NumPy
        warnings.simplefilter("ignore", FutureWarning)
        try:
            model = in_inference(model)
            model.export(path, format="onnx", verbose=False, input_signature=signature)
            return
        except Exception as error:  # any error of the converter
            said = " ".join(str(error).split())[:400]
    raise ValueError(
        "The converter to ONNX cannot convert this model. Export it to another format, or replace "
        f"the layers that it names. Received: {model.name!r}, {said}"
    )


def _quantize(source, path, quantize, calibration):
    from onnxruntime import quantization

    if quantize == "dynamic_int8":
        quantization.quantize_dynamic(source, path, weight_type=quantization.QuantType.QInt8)
        return

    class Examples(quantization.CalibrationDataReader):
        def __init__(self):
            self.batch = iter([calibration])

        def get_next(self):
            return next(self.batch, None)

    quantization.quantize_static(source, path, Examples(), per_channel=True)
