"""Records what layers output while a model runs, by watching only the tapped layers.

Keras looks up `call` on the instance, so a function in the layer's `__dict__` hides the method. The
first run that taps the layer puts the function there. The last run removes it. Outside of a run a
layer is as Keras made it.
"""

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_distill import _backend
from keras_distill._keras import layers as keras_layers
from keras_distill._keras.graph import output_names
from keras_distill.taps.paths import call_of, find_layer, is_edge, naming, part, pick, steps
from keras_distill.taps.scores import SCORES, noting_scores

_here = threading.local()  # the runs of each thread: MirroredStrategy has one for each replica
_lock = threading.Lock()
_watched = {}  # {(id(layer), name): [layer, previous value in its `__dict__`, number of runs]}


def run(
    model: Callable[..., Any],
    x: Any,
    paths: Sequence[str],
    *,
    training: bool = False,
    owner: keras.Model | None = None,
) -> dict[str, Any]:
    """Runs a model once and returns the tensors at each path.

    Args:
        model: any Keras model or layer, or any function of `x`, which has paths for its ends only.
        x: the inputs of the model.
        paths: a list of paths (see `keras_distill.taps`). If a layer runs several times, the last
            call counts, unless the path names another one, as in `"query#0"`.
        training: as in `model(x, training=...)`. Defaults to `False`.
        owner: the model that the paths start from, if `model` is a part of it. Defaults to
            `model`.

    Returns:
        A dict `{path: tensor or structure}`.

    Raises:
        ValueError: if a path names no layer, or a layer or call that did not run, a layer inside of
            a checkpoint (`keras.RematScope`), or a layer that ran inside another graph
            (`tf.while_loop`, `tf.cond`).

    Example:

    ```python
    found = taps.run(student, x, ["output", "block_1"])
    found["block_1"].shape  # (16, 8, 8, 4)
    ```
    """
    owner = model if owner is None else owner
    layers = {path: find_layer(owner, path) for path in paths if not is_edge(path)}
    for path in layers:
        refuse_checkpoints(model, owner, path)
    with recording([*seams_of(layers), *heads_of(model)], keys_of(layers)) as calls:
        outputs = called(model, x, training)
    ends = {"output": outputs, "input": x}
    names = output_names(owner) if isinstance(owner, keras.Model) else ()
    features = {}
    for path in paths:
        if is_edge(path):
            features[path] = pick(path, ends, names)
        else:
            features[path] = heard(model, path, calls.get(_key(path, layers[path]), []))
    return features


def called(model, x, training):
    """Returns what a model or function returns."""
    return model(x, training=training) if keras_layers.takes_training(model) else model(x)


def keys_of(layers):
    """Returns the keys under which the calls of the layers at some paths are recorded."""
    return {_key(path, layer) for path, layer in layers.items()}


def seams_of(layers):
    """Returns `(layer, name)` of the methods to watch for some paths."""
    for path, layer in layers.items():
        scored = path.endswith(SCORES)
        yield layer, keras_layers.ATTENTION if scored else keras_layers.called_last(layer)


@contextlib.contextmanager
def recording(seams, keys, opened=()):
    """Records within the block what layers return on this thread: `{key: [value of each call]}`.

    Args:
        seams: `(layer, name)` of the methods to watch.
        keys: what to record: `id(layer)` for outputs, `(id(layer), SCORES)` for attention scores.
        opened: functions `{id(layer): function}` that run in place of a layer's symbolic call.
    """
    seams, calls = list(seams), {}
    runs = _here.__dict__.setdefault("runs", [])
    with _lock:
        for layer, name in seams:
            _watch(layer, name)
    runs.append((keys, calls, dict(opened)))
    try:
        yield calls
    finally:
        runs.pop()
        with _lock:
            for layer, name in reversed(seams):
                _leave(layer, name)


def refuse_checkpoints(model, owner, path):
    """Raises an error for a path into a layer whose inside runs in a checkpoint."""
    names = steps(path)
    above = [model] if isinstance(model, keras.layers.Layer) else []
    above += [find_layer(owner, "/".join(names[:depth])) for depth in range(1, len(names))]
    for layer in above:
        if keras_layers.checkpoints(layer):
            raise ValueError(
                f"`{path}` cannot be tapped, because `{layer.name}` runs under "
                "`keras.RematScope`, which discards the outputs of its layers. Tap the whole "
                "layer, or make it outside of the scope."
            )


def heads_of(model):
    """Returns the methods to watch in order to know the logits before a softmax or a sigmoid.

    Keras keeps the logits as an attribute of the tensor, which JAX's tracers do not take.
    """
    if _backend.NAME != "jax" or not isinstance(model, keras.layers.Layer):
        return []
    below = [model, *keras_layers.sublayers(model, recursive=True)]
    heads = [(layer, "activation") for layer in below
             if keras_layers.is_softmax(getattr(layer, "activation", None))]  # fmt: skip
    return heads + [(layer, keras_layers.CALL) for layer in below if _is_softmax(layer)]


def _is_softmax(layer):
    return _backend.NAME == "jax" and isinstance(layer, keras.layers.Softmax)


def _watch(layer, name):
    tap = _watched.get((id(layer), name))
    if tap is None:
        tap = _watched[id(layer), name] = [layer, layer.__dict__.get(name), 0]
        # Not `setattr`: Keras and PyTorch would track the function.
        layer.__dict__[name] = _WRAPPERS[name](layer, getattr(layer, name))
    tap[2] += 1


def _leave(layer, name):
    tap = _watched[id(layer), name]
    tap[2] -= 1
    if tap[2]:
        return
    del _watched[id(layer), name], layer.__dict__[name]
    if tap[1] is not None:
        layer.__dict__[name] = tap[1]


def _note(key, make):
    """Records what `make` returns in the runs of this thread that ask for it."""
    for keys, calls, _ in getattr(_here, "runs", ()):
        if key in keys:
            calls.setdefault(key, []).append(make())


def _noting(layer, function):
    @functools.wraps(function)
    def noting(*args, **kwargs):
        value = function(*args, **kwargs)
        if _is_softmax(layer) and kwargs.get("mask") is None:  # a masked softmax has other logits
            keras_layers.set_logits(value, args[0])
        _note(id(layer), lambda: value)
        return value

    return noting


def _noting_checkpointed(layer, function):
    return lambda *args, **kwargs: _noting(layer, function(*args, **kwargs))


def _noting_symbols(layer, function):
    @functools.wraps(function)
    def noting(*args, **kwargs):
        opened = [each[id(layer)] for *_, each in _here.runs if id(layer) in each]
        value = (opened[-1] if opened else function)(*args, **kwargs)
        _note(id(layer), lambda: value)
        return value

    return noting


def _noting_scores(layer, function):
    return noting_scores(function, lambda make: _note((id(layer), SCORES), make))


def _remembering(layer, function):
    @functools.wraps(function)
    def remembering(x, *args, **kwargs):
        value = function(x, *args, **kwargs)
        keras_layers.set_logits(value, x)
        return value

    return remembering


_WRAPPERS = {
    keras_layers.CALL: _noting,
    keras_layers.QUANTIZED: _noting,
    keras_layers.CHECKPOINTED: _noting_checkpointed,
    keras_layers.SYMBOLIC: _noting_symbols,
    keras_layers.ATTENTION: _noting_scores,
    "activation": _remembering,
}


def _key(path, layer):
    return (id(layer), SCORES) if path.endswith(SCORES) else id(layer)


def heard(model, path, calls):
    """Returns the value that a path names, from the recorded calls of its layer."""
    if not calls:
        raise ValueError(f"`{path}` cannot be tapped, because `{model.name}` did not call it.")
    number = call_of(path)
    if number is None:
        number = -1
        if len(calls) > 1:
            warnings.warn(_ambiguous(path, calls), stacklevel=4)
    if not -len(calls) <= number < len(calls):
        raise ValueError(
            f"`{model.name}` called the layer of `{path}` {len(calls)} times. Name a call, from "
            f"`{naming(path, 0)}` to `{naming(path, len(calls) - 1)}`."
        )
    _refuse_other_graphs(path, calls[number])
    return calls[number] if path.endswith(SCORES) else part(path, calls[number], "layer")


def _ambiguous(path, calls):
    shapes = [keras.tree.map_structure(lambda v: tuple(getattr(v, "shape", ())), each)
              for each in calls]  # fmt: skip
    others = f", with the shapes {shapes}" if any(shape != shapes[0] for shape in shapes) else ""
    return (
        f"`{path}` was called {len(calls)} times{others}. The last call is used. To choose a call, "
        f"name one from `{naming(path, 0)}` to `{naming(path, len(calls) - 1)}`."
    )


def _refuse_other_graphs(path, value):
    """Raises an error for a symbolic tensor of TensorFlow from another graph."""
    if _backend.NAME != "tensorflow":
        return
    tf = _backend.tensorflow("`taps.run`")
    here = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    for tensor in keras.tree.flatten(value):
        if tf.is_symbolic_tensor(tensor) and tensor.graph is not here:
            raise ValueError(
                f"`{path}` cannot be tapped, because the layer runs inside a `tf.while_loop`, "
                "`tf.cond` or `tf.function` of the model. Tap the layer around it."
            )
