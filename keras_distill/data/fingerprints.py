"""Digests of what made a cache: models by weights and config, others by names that users give.

A digest changes if a model would answer otherwise. It is the same in every process and under every
version of Python. To find it, nothing is called and no code is read.
"""

import hashlib
import json
import re
from collections import abc

import keras
import numpy as np

from keras_distill._keras.layers import sublayers
from keras_distill.teachers import Teacher


def fingerprints_of(value, names=None, place="value"):
    """Returns a digest, or a dict of them, that changes if `value` computes another result.

    The digest covers the bytes of weights, the config of layers without the numbers that Keras adds
    to names, the vocabulary of tokenizers, the config of objects with a `get_config`, the public
    attributes of a teacher, and the operations, constants and variables of a SavedModel's
    functions. It also covers the bytes of arrays and tensors. Numbers, strings, lists and dicts of
    them are taken as they are.

    Args:
        value: an object that took part in making a cache.
        names: `{place: name}`. The string replaces what is at that place, which is not read.
            Defaults to `None`: there are no such names.
        place: the place of `value`, such as "teacher.preprocess". Its parts append their own.

    Raises:
        ValueError: if there is a function, or another object without a fingerprint, and no name for
            it.
    """
    names = names or {}
    if place in names:
        return names[place]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    describe = next((describe for fits, describe in KINDS if fits(value)), None)
    if describe is None or isinstance(value, type):
        raise _nameless(value, place)
    return describe(value, lambda part, name: fingerprints_of(part, names, f"{place}.{name}"))


def digest(text):
    """Returns 16 hexadecimal digits for a text or bytes."""
    data = text if isinstance(text, bytes) else text.encode()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _nameless(value, place):
    return ValueError(
        f"`{place}` is a `{type(value).__name__}`, which cannot be fingerprinted, so a cache made "
        "with a different one would go unnoticed. Name it and its version, as in "
        f'`fingerprints={{"{place}": "its name, version 1"}}`, both where the cache is written '
        f"and where it is read. Received: {value!r}"
    )


def _of_list(values, of):
    return [of(value, number) for number, value in enumerate(values)]


def _of_dict(values, of):
    return {str(name): of(value, name) for name, value in values.items()}


def _of_teacher(teacher, of):
    """Private attributes do not count, nor the view of raw text, which belongs to one student."""
    parts = {name: of(part, name) for name, part in vars(teacher).items()
             if name[0] != "_" and name != "view"}  # fmt: skip
    return {"class": type(teacher).__name__, **parts}


def _of_layer(layer, of):
    found = {"config": _config(layer, of)}
    if layer.weights:
        found["weights"] = _weights(layer)
    layers = [layer, *sublayers(layer, recursive=True)]
    if words := [of(part, "words") for each in layers for part in _words(each)]:
        found["vocabulary"] = digest(json.dumps(words))
    return found


def _config(layer, of):
    try:
        return digest(_numberless(layer.get_config(), of))
    except NotImplementedError:  # a subclassed model without a config of its own
        return type(layer).__name__


def _numberless(config, of):
    """Returns a config as text, without the numbers that Keras adds to names."""

    def described(value):
        return value.get_config() if _has_config(value) else of(value, "config")

    return re.sub(r'_\d+"', '"', json.dumps(config, default=described, sort_keys=True))


def _weights(layer):
    found = hashlib.blake2b(digest_size=8)
    for weight in layer.weights:
        if "seed_generator" not in weight.path:  # inference does not read a dropout's seed
            _update(found, keras.ops.convert_to_numpy(weight))
    return found.hexdigest()


def _update(found, array):
    found.update(f"{array.dtype.name} {array.shape}".encode())
    found.update(array.tobytes())


def _words(layer):
    """Returns the vocabulary that the config of a KerasHub tokenizer or lookup layer lacks."""
    if hasattr(layer, "get_vocabulary"):
        yield list(layer.get_vocabulary())
        for name in ("merges", "proto"):
            part = getattr(layer, name, None)
            yield digest(part) if isinstance(part, bytes) else part


def _of_array(value, of):
    array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
    if array.dtype == object:
        return of(array.tolist(), "array")
    found = hashlib.blake2b(digest_size=8)
    _update(found, array)
    return found.hexdigest()


def _of_graph(function, of):
    """Returns a function of a SavedModel without its names, which differ at each loading."""
    graph = function.graph.as_graph_def()
    bodies = [graph.node, *(inner.node_def for inner in graph.library.function)]
    ops = sorted(digest(json.dumps([_of_op(node) for node in nodes])) for nodes in bodies)
    return [digest(json.dumps(ops)), of(list(function.variables), "variables")]


def _of_op(node):
    return [node.op, node.attr["value"].SerializeToString().hex() if node.op == "Const" else ""]


def _has_config(value):
    return hasattr(value, "get_config") and not isinstance(value, type)


# The first match counts. A SavedModel's functions are recognized by attributes that only they have.
KINDS = (
    (lambda value: isinstance(value, (list, tuple)), _of_list),
    (lambda value: isinstance(value, abc.Mapping), _of_dict),
    (lambda value: isinstance(value, bytes), lambda value, of: digest(value)),
    (lambda value: isinstance(value, keras.layers.Layer), _of_layer),
    (lambda value: isinstance(value, Teacher), _of_teacher),
    (_has_config, lambda value, of: digest(
        type(value).__name__ + _numberless(value.get_config(), of))),
    (lambda value: hasattr(value, "__array__"), _of_array),
    (lambda value: hasattr(value, "concrete_functions"),
     lambda value, of: of(value.concrete_functions, "functions")),
    (lambda value: hasattr(value, "captured_inputs"), _of_graph),
    (lambda value: hasattr(value, "signatures"), lambda value, of: of(
        dict(value.signatures), "signatures")),
)  # fmt: skip
