"""What made a cache: digests of teachers, functions and tokenizers, and how they are compared."""

import hashlib
import json
import re
import types

import keras
import numpy as np

from keras_distill.teachers import Teacher


def fingerprints_of(value):
    """A digest, or a dict of them, that changes when `value` would compute something else.

    Weights count by their bytes, layers by their config without the numbers that Keras adds to
    names, functions by their code, defaults and closures.
    """
    if isinstance(value, keras.layers.Layer):
        return _of_layer(value)
    if isinstance(value, Teacher):
        parts = {name: fingerprints_of(part) for name, part in vars(value).items()}
        return {"class": type(value).__name__, **parts}
    if isinstance(value, types.FunctionType):
        return digest(json.dumps(_code(value), default=str))
    if isinstance(value, (list, tuple)):
        return [fingerprints_of(part) for part in value]
    if isinstance(value, dict):
        return {str(key): fingerprints_of(part) for key, part in value.items()}
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, np.ndarray):
        return digest(value.tobytes())
    config = getattr(value, "get_config", None)
    return digest(_plain(config())) if config else type(value).__name__


def _of_layer(layer):
    found = {"config": _config(layer)}
    if layer.weights:
        found["weights"] = _weights(layer)
    if hasattr(layer, "get_vocabulary"):
        found["vocabulary"] = digest(json.dumps([str(word) for word in layer.get_vocabulary()]))
    return found


def _weights(layer):
    digest = hashlib.blake2b(digest_size=8)
    for weight in layer.weights:
        if "seed_generator" not in weight.path:  # a dropout's, which inference does not read
            digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).data.cast("B"))
    return digest.hexdigest()


def _config(layer):
    try:
        return digest(_plain(layer.get_config()))
    except NotImplementedError:  # a subclassed model without a config of its own
        return type(layer).__name__


def _plain(config):
    text = json.dumps(config, default=_serialized, sort_keys=True)
    return re.sub(r'_\d+"', '"', text)


def _serialized(value):
    config = getattr(value, "get_config", None)
    return config() if config and not isinstance(value, type) else type(value).__name__


def _code(function):
    """What a function does, as far as its code tells."""

    def constants(code):
        inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
        plain = [repr(c) for c in code.co_consts if not isinstance(c, types.CodeType)]
        return [code.co_code.hex(), plain, code.co_names, [constants(c) for c in inner]]

    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    known = [
        fingerprints_of(c)
        for c in cells
        if not isinstance(c, types.FunctionType) or c is not function
    ]
    return [constants(function.__code__), fingerprints_of(function.__defaults__), known]


def digest(text):
    """16 hexadecimal digits that stand for a text or bytes."""
    data = text if isinstance(text, bytes) else text.encode()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def differences(before, now, where=""):
    """What differs between two nested dicts, a line each, as "place: before, now"."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [f"{where}: {_short(before)} there, {_short(now)} here"]
    found = []
    for key in dict.fromkeys([*before, *now]):
        place = f"{where}.{key}" if where else str(key)
        found += differences(before.get(key), now.get(key), place)
    return found


def _short(value):
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}..."
