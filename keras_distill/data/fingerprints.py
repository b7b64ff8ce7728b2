"""What made a cache: digests of teachers, functions and tokenizers, and how they are compared."""

import copyreg
import functools
import hashlib
import json
import re
import sys
import types
from collections import abc

import keras
import numpy as np

from keras_distill.teachers import Teacher

import tensorflow as tf  # isort: skip: after the check of the backend in `teachers`

NOT_TARGETS = ("_owner", "view")  # of a teacher: what keeps its model alive; raw text's, in `fit`
TABLES = (tf.lookup.StaticHashTable, tf.lookup.experimental.MutableHashTable,
          tf.lookup.experimental.DenseHashTable)  # fmt: skip
WITHOUT_CODE = {"keras", "numpy", "tensorflow", *sys.stdlib_module_names}


def fingerprints_of(value, inside=()):
    """A digest, or a dict of them, that changes when `value` would compute something else.

    Weights count by their bytes, layers by their config without the numbers that Keras adds to
    names, functions by their code, defaults and closures, other objects by their class and what
    `pickle` would keep of them, or by their `get_config()`.

    Raises:
        ValueError: for an object whose content cannot be told, such as a connection.
    """
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if any(value is outer for outer in inside):
        return "itself"
    describe = next(describe for kind, describe in KINDS if _is(kind, value))
    return describe(value, lambda part: fingerprints_of(part, (*inside, value)))


def _is(kind, value):
    return hasattr(value, kind) if isinstance(kind, str) else isinstance(value, kind)


def _of_mapping(value, of):
    return {str(key): of(part) for key, part in value.items()}


def _of_set(value, of):
    return sorted(digest(json.dumps(of(part))) for part in value)


def _of_layer(layer, of):
    found = {"config": _config(layer)}
    if layer.weights:
        found["weights"] = _weights(layer)
    if words := [of(part) for each in layer._flatten_layers() for part in _words(each)]:
        found["vocabulary"] = digest(json.dumps(words))
    return found


def _words(layer):
    """What a tokenizer's config does not tell."""
    if hasattr(layer, "get_vocabulary"):
        yield layer.get_vocabulary()
        yield from (getattr(layer, name, None) for name in ("merges", "proto"))


def _weights(layer):
    found = hashlib.blake2b(digest_size=8)
    for weight in layer.weights:
        if "seed_generator" not in weight.path:  # a dropout's, which inference does not read
            _update(found, keras.ops.convert_to_numpy(weight))
    return found.hexdigest()


def _update(found, array):
    found.update(f"{array.dtype.name} {array.shape}".encode())
    found.update(array.tobytes())


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
    return config() if config and not isinstance(value, type) else fingerprints_of(value)


def _of_configured(value, of):
    return digest(type(value).__name__ + _plain(value.get_config()))


def _of_teacher(teacher, of):
    parts = {name: of(part) for name, part in vars(teacher).items() if name not in NOT_TARGETS}
    return {"class": type(teacher).__name__, **parts}


def _of_function(function, of):
    """By what it does, as far as its code tells."""

    def constants(code):
        return [code.co_code.hex(), code.co_names, [part(c) for c in code.co_consts]]

    def part(constant):
        return constants(constant) if isinstance(constant, types.CodeType) else of(constant)

    cells = [of(cell.cell_contents) for cell in function.__closure__ or ()]
    defaults = [of(function.__defaults__), of(function.__kwdefaults__)]
    return digest(json.dumps([constants(function.__code__), defaults, cells]))


def _of_class(cls, of):
    """The name and, of a class that no library has, the functions and numbers in it."""
    found = {}
    for each in cls.__mro__[::-1]:
        if each.__module__.partition(".")[0] not in WITHOUT_CODE:
            members = {name: getattr(m, "__func__", m) for name, m in vars(each).items()}
            found.update((name, of(m)) for name, m in members.items() if _counts(name, m))
    return [cls.__qualname__, digest(json.dumps(found, sort_keys=True))]


def _counts(name, member):
    if isinstance(member, types.FunctionType) or hasattr(member, "python_function"):
        return True
    return not name.startswith("__") and isinstance(member, (str, int, float, bool))


def _of_array(value, of):
    try:
        array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
    except Exception as error:  # a tensor that holds a resource, or none
        raise _unknown(value) from error
    if array.dtype == object:
        return of(array.tolist())
    found = hashlib.blake2b(digest_size=8)
    _update(found, array)
    return found.hexdigest()


def _of_graph(function, of):
    """A function of a SavedModel; names in it differ from one loading to the next."""
    graph = function.graph.as_graph_def()
    bodies = [graph.node, *(inner.node_def for inner in graph.library.function)]
    ops = sorted(digest(json.dumps([_of_op(node) for node in nodes])) for nodes in bodies)
    return [digest(json.dumps(ops)), of(list(function.variables))]


def _of_op(node):
    return [node.op, node.attr["value"].SerializeToString().hex() if node.op == "Const" else ""]


def _of_trackable(value, of):
    """A SavedModel or a `tf.Module`: its variables and functions."""
    below = tf.train.TrackableView(value).descendants()
    parts = [of(p) for p in below if _is("concrete_functions", p) or isinstance(p, tf.Variable)]
    plain = {name: of(part) for name, part in vars(value).items()
             if name[0] != "_" and isinstance(part, (str, int, float, bool))}  # fmt: skip
    return [of(type(value)), parts, plain]


def _of_table(table, of):
    return sorted(map(repr, zip(*(part.numpy().tolist() for part in table.export()))))


def _of_object(value, of):
    """By what `pickle` would keep: a global's name, or a class with arguments and state."""
    reduce = copyreg.dispatch_table.get(type(value), lambda value: value.__reduce_ex__(4))
    try:
        found = reduce(value)
    except TypeError as error:
        raise _unknown(value) from error
    if isinstance(found, str):
        return found
    parts = [[*part] if isinstance(part, abc.Iterator) else part for part in found]
    return [of(type(value)), of(parts)]


def _unknown(value):
    return ValueError(
        f"What a `{type(value).__name__}` holds cannot be told, and so not whether a cache was "
        "made with another one. Give a string in its stead, as in "
        '`fingerprints={"teacher": "its name and version"}` (or "augment", "key"), or the object '
        f"that holds it a `get_config()`. Received: {value!r}"
    )


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


# The first that fits: a type, or the name of an attribute.
KINDS = (
    ((list, tuple, abc.KeysView, abc.ValuesView), lambda value, of: [of(part) for part in value]),
    (abc.Mapping, _of_mapping),
    ((set, frozenset), _of_set),
    (bytes, lambda value, of: digest(value)),
    (type, _of_class),
    (keras.layers.Layer, _of_layer),
    (Teacher, _of_teacher),
    (types.FunctionType, _of_function),
    (types.MethodType, lambda value, of: [of(value.__func__), of(value.__self__)]),
    (types.BuiltinFunctionType, lambda value, of: [value.__name__, of(value.__self__)]),
    (functools.partial, lambda value, of: [of(value.func), of(value.args), of(value.keywords)]),
    ((types.ModuleType, np.ufunc), lambda value, of: value.__name__),
    ((np.dtype, tf.DType), lambda value, of: value.name),
    ("get_config", _of_configured),
    ("__array__", _of_array),
    ("concrete_functions", lambda value, of: of(value.concrete_functions)),
    ("captured_inputs", _of_graph),
    ("python_function", lambda value, of: of(value.python_function)),
    (tf.__internal__.tracking.AutoTrackable, _of_trackable),
    (TABLES, _of_table),
    (object, _of_object),
)
