"""The formats of exports, beside TF Serving's, with their needs."""

import collections.abc
import dataclasses
import importlib.util

from keras_distill.export import litert_file, onnx_file, openvino_folder


@dataclasses.dataclass(frozen=True)
class Format:
    """One format that a model is exported to.

    Args:
        write: A function that writes a model: `write(model, path, signature, quantize=...,
            calibration=...)`.
        ending: The ending of the file's or folder's name.
        packages: The packages for writing and checking, by the names of their imports.
        quantizations: The allowed values of `quantize`.
    """

    write: collections.abc.Callable
    ending: str
    packages: tuple
    quantizations: tuple


FORMATS = {
    "litert": Format(litert_file.write, ".tflite", litert_file.PACKAGES, litert_file.QUANTIZATIONS),
    "onnx": Format(onnx_file.write, ".onnx", onnx_file.PACKAGES, onnx_file.QUANTIZATIONS),
    "openvino": Format(
        openvino_folder.write, ".openvino", openvino_folder.PACKAGES, openvino_folder.QUANTIZATIONS
    ),
}
NAMES = ("serving", *FORMATS)


def checked_formats(formats, quantize):
    """Returns the formats as a list, if each is known, takes `quantize` and has its packages.

    Args:
        formats: Names of formats, or one name.
        quantize: One of LiteRT's `QUANTIZATIONS`.

    Raises:
        ValueError: If a format or `quantize` is unknown, or they do not fit each other.
        ImportError: If a package of a format is not installed.
    """
    named = isinstance(formats, (list, tuple, set, frozenset))
    formats = list(dict.fromkeys(formats)) if named else [formats]
    if not formats or not {*formats} <= {*NAMES}:
        raise ValueError(
            f"`formats` must name at least one of {', '.join(NAMES)}. Received: {formats}"
        )
    known = litert_file.QUANTIZATIONS
    if quantize not in known:
        raise ValueError(
            f"`quantize` must be one of {', '.join(known)}. Received: quantize={quantize!r}"
        )
    others = [kind for kind in formats if kind != "serving"]
    if quantize != "none" and not others:
        raise ValueError(
            "A SavedModel for TF Serving cannot be quantized. Add another format, such as "
            f"`litert`, or leave `quantize` out. Received: quantize={quantize!r}"
        )
    for kind in others:
        _check_format(kind, quantize)
    return formats


def _check_format(kind, quantize):
    format = FORMATS[kind]
    if quantize not in format.quantizations:
        raise ValueError(
            f"`quantize` for the format `{kind}` must be one of {', '.join(format.quantizations)}. "
            f"Choose one of these, or leave the format out. Received: quantize={quantize!r}"
        )
    missing = [each for each in format.packages if importlib.util.find_spec(each) is None]
    if missing:
        raise ImportError(
            f"The format `{kind}` needs {', '.join(missing)}. "
            "Run `pip install keras-distill[export]`."
        )
