"""Writes a model as a LiteRT file for phones, in float32 or quantized."""

import contextlib
import io
import tempfile
import warnings

import numpy as np

from keras_distill import _backend
from keras_distill.export.saved_model import archive_of
from keras_distill.quantized_layers import simulation_of, with_rounded_weights

PACKAGES = ("tensorflow", "ai_edge_litert", "ai_edge_quantizer")
QUANTIZATIONS = ("none", "float16", "dynamic_int8", "int8", "int4")


def write(model, path, signature, *, quantize="none", calibration=None):
    """Writes a `.tflite` file whose signature `serving_default` answers as the model does.

    Args:
        model: A built `keras.Model`.
        path: The file to write.
        signature: The result of `signature_of(model)`, with a batch size if it is fixed.
        quantize: One of `QUANTIZATIONS`. `"int8"` computes in integers between float inputs and
            outputs. `"dynamic_int8"` stores the weights in int8, and quantizes their inputs at run
            time. `"int4"` stores the weights in 4 bits and `"float16"` in 16; both compute in
            floats. A model of `models.quantization_aware` takes the one that it simulates.
        calibration: A dict of arrays by input name, from which `"int8"` gets the ranges of the
            numbers between the operations. Defaults to `None`.

    Raises:
        ValueError: If the model has an operation that LiteRT lacks.
    """
    simulation = simulation_of(model)
    if simulation is not None and simulation.activations:
        content = _converted(model, signature, simulated=True)
    elif simulation is not None:
        with with_rounded_weights(model):  # so the quantizer finds the same integers again
            content = _quantized(_converted(model, signature), quantize, calibration)
    else:
        content = _converted(model, signature)
        if quantize != "none":
            content = _quantized(content, quantize, calibration)
    with open(path, "wb") as file:
        file.write(content)


def quantization_of(model):
    """Returns the `quantize` for a model with fake quantization, or `None` for another model."""
    simulation = simulation_of(model)
    if simulation is None:
        return None
    if simulation.activations:
        return "int8"
    return "int4" if simulation.weights == 4 else "dynamic_int8"


def _converted(model, signature, simulated=False):
    tf = _backend.tensorflow("LiteRT's converter")
    with tempfile.TemporaryDirectory() as folder:
        archive_of(model, None, 1, None, signature, ()).write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=["serving_default"]
        )
        if simulated:  # it then writes the simulated integers
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        try:
            return converter.convert()
        except Exception as error:  # the converter's class is not public
            said = _reason(str(error))
        raise ValueError(
            "LiteRT cannot run this model. Replace the layers that need these operations, or "
            f"give a fixed batch size with `batch=1`. Received: {model.name!r}, {said}"
        )


def _reason(said):
    """Returns the line of the converter's message that names the operations, or its beginning."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    named = [line for line in lines if line.startswith(("Flex ops:", "Custom ops:"))]
    return " ".join(named)[:400] or " ".join(lines)[:400]


def _quantized(content, quantize, calibration):
    from ai_edge_quantizer import calibrator, quantizer

    quiet = contextlib.redirect_stderr(io.StringIO())  # hides its progress bar
    with warnings.catch_warnings(), quiet:
        warnings.simplefilter("ignore", UserWarning)  # it warns that it keeps all tensors
        try:
            job = quantizer.Quantizer(bytearray(content), _recipe(quantize))
            ranges = None
            if job.need_calibration:
                watched = calibrator.Calibrator(bytearray(content), num_threads=1,
                                                qsv_update_func=_widened)  # fmt: skip
                watched.calibrate({"serving_default": _examples(calibration)}, job._recipe_manager)
                ranges = watched.get_model_qsvs()
            found = job.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
            return bytes(found.quantized_model)
        except Exception as error:  # of any class, such as for the loop of a recurrent layer
            said = " ".join(str(error).split())[:300]
    raise ValueError(
        f"LiteRT's quantizer cannot quantize this model to {quantize}. Choose another `quantize`, "
        f"such as 'dynamic_int8' or 'float16'. Received: quantize={quantize!r}, {said}"
    )


def _widened(known, found):
    """Returns the range that holds two ranges: the quantizer's own moving average is narrower."""
    if not known:
        return found
    return {"min": np.minimum(known["min"], found["min"]),
            "max": np.maximum(known["max"], found["max"])}  # fmt: skip


def _recipe(quantize):
    """Returns the quantizer's recipe."""
    from ai_edge_quantizer import recipe

    if quantize == "dynamic_int8":
        return recipe.dynamic_wi8_afp32()
    if quantize == "int4":  # the quantizer has no 4 bits for the last two kinds
        weights = {"dtype": "INT", "num_bits": 8, "symmetric": True, "granularity": "CHANNELWISE"}
        wider = [_operation(name, "min_max_uniform_quantize", {"weight_tensor_config": weights})
                 for name in ("DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE")]  # fmt: skip
        return [*recipe.weight_only_wi4_afp32(), *wider]
    if quantize == "int8":  # inputs and outputs are floats, as in all other formats
        ends = [_operation(name, "no_quantize", {}) for name in ("INPUT", "OUTPUT")]
        return [*recipe.static_wi8_ai8(), *ends]
    weights = {"dtype": "FLOAT", "num_bits": 16, "symmetric": True, "granularity": "TENSORWISE"}
    config = {"weight_tensor_config": {**weights, "block_size": 0}}
    return [_operation("*", "float_casting", config)]


def _operation(name, algorithm, config):
    given = {"compute_precision": "FLOAT", "explicit_dequantize": True, "skip_checks": False,
             "min_weight_elements": 0}  # fmt: skip
    return {"regex": ".*", "operation": name, "algorithm_key": algorithm,
            "op_config": {**given, **config}}  # fmt: skip


def _examples(calibration):
    """Yields each example of the calibration set as a batch of one."""
    count = len(next(iter(calibration.values())))
    return [{n: np.asarray(v[i : i + 1]) for n, v in calibration.items()} for i in range(count)]
