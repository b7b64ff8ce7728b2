"""Shapes of everything that can be tapped, without data."""

import contextlib
import weakref
from typing import Any

import keras

from keras_distill._keras import graph
from keras_distill.taps.paths import is_edge, walk
from keras_distill.taps.recording import (
    called,
    heads_of,
    keys_of,
    recording,
    refuse_checkpoints,
    seams_of,
)


def shapes(model: keras.Model, unknown: int | None = None) -> dict[str, Any]:
    """Lists every path of a built model with the shape of its output.

    Args:
        model: a Keras model that is built.
        unknown: a positive size for each unknown size of the inputs. Defaults to `None`, which
            leaves them unknown.

    Returns:
        A dict `{path: shape}`, with a layer before the layers inside it, and `"output"` last. A
        shape is a tuple with `None` for an unknown size, or a structure of tuples. If a layer is
        called several times, the shape is that of the last call (see `calls`). A layer that the
        forward pass does not call, or that runs in a checkpoint, has the shape `None`.

    Raises:
        ValueError: if the model is not built, or does not run on its saved input shapes.

    Example:

    ```python
    for path, shape in taps.shapes(student).items():
        print(path, shape)
    ```
    """
    found, output = _known(model, unknown)
    last = {path: each[-1] if each else None for path, each in found.items()}
    return {**last, "output": output}


def calls(model: keras.Model, least: int = 2) -> dict[str, list]:
    """Returns the layers that one forward pass calls several times, with the shape of each call.

    Args:
        model: a Keras model that is built.
        least: how many calls a layer must have to be listed, non-negative. Defaults to `2`.

    Returns:
        A dict `{path: [shape of the first call, of the second, ...]}`. The path of one call is
        `f"{path}#{index}"`.

    Raises:
        ValueError: for the same reasons as `shapes`.

    Example:

    ```python
    image, shared = keras.Input((4,)), layers.Dense(3, name="shared")
    twice = keras.Model(image, shared(image) + shared(2.0 * image))
    taps.calls(twice)  # {"shared": [(None, 3), (None, 3)]}
    ```
    """
    found, _ = _known(model)
    return {path: [*each] for path, each in found.items() if len(each) >= least}


_KNOWN = weakref.WeakKeyDictionary()  # {model: {key: (its layers as weak references, result)}}


def _known(model, unknown=None):
    """Returns what `_traced` returns; it runs once for a model of the same layers and inputs."""
    layers = {path: layer for path, layer in walk(model) if not is_edge(path)}
    spec = _input_spec(model)
    spec = _filled(spec, unknown) if unknown else spec
    key = (*layers, str(_described(spec)))
    before, result = _KNOWN.setdefault(model, {}).get(key, ((), None))
    if result is None or any(r() is not layer for r, layer in zip(before, layers.values())):
        result = _traced(model, layers, spec)
        _KNOWN[model][key] = [weakref.ref(layer) for layer in layers.values()], result
    return result


def _traced(model, layers, spec):
    """Returns `{path: [shape of each call]}`, and the shape of the output."""
    look = _Look(model, {path: layer for path, layer in layers.items() if _shows(model, path)})
    try:
        known = _inferred(look, spec)
    except Exception as error:
        raise ValueError(
            f"`{model.name}` was saved with the inputs {_described(spec)} but does not run on "
            "them. Call it on a batch of its data before `taps.shapes`. A subclassed model with "
            "several inputs must take them in one dict. Received the error: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    recorded, output = keras.tree.map_structure(
        lambda index: None if index is None else _Shape(known[index]), look.structure
    )
    recorded, output = _plain(recorded), _plain(output)
    return {path: recorded.get(path, []) for path in layers}, output


SMALL = (2, 3)  # sizes in place of unknown ones, small enough for a short table of positions
WHOLE = (16, 32)  # sizes for a model that takes its tokens in groups, as RWKV-7 does


def _inferred(look, spec):
    """Infers the shape of each tensor that a `_Look` at a model returns.

    On JAX and PyTorch Keras tries sizes near a hundred in place of unknown ones. A model of fewer
    positions does not run on these. On TensorFlow a model that computes with the number of its
    tokens (Qwen 3.5) takes no unknown sizes. The function tries other sizes for such models.
    """
    try:
        return _shapes_of(look, spec)
    except Exception as error:
        said = error
    for sizes in (SMALL, WHOLE):
        with contextlib.suppress(Exception):
            return _of_both(*(_shapes_of(look, _filled(spec, size)) for size in sizes))
    raise said


def _of_both(one, other):
    """Merges the shapes of two runs, with `None` for sizes that differ."""
    return [tuple(a if a == b else None for a, b in zip(*pair)) for pair in zip(one, other)]


def _shapes_of(look, spec):
    return [tuple(tensor.shape) for tensor in keras.tree.flatten(look.compute_output_spec(spec))]


def _filled(spec, size):
    """Returns the same symbolic inputs with a size in place of each unknown one."""
    return keras.tree.map_structure(
        lambda each: keras.KerasTensor([size if n is None else n for n in each.shape], each.dtype),
        spec,
    )


class _Shape:
    """A shape as one leaf of a structure."""

    def __init__(self, shape):
        self.shape = shape


def _plain(structure):
    if isinstance(structure, _Shape):
        return structure.shape
    if isinstance(structure, dict):
        return {key: _plain(value) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        return type(structure)(map(_plain, structure))
    return structure


class _Look(keras.Operation):
    """Runs a model and returns all that its layers output, as a flat list of tensors.

    Keras infers the shapes of an operation's outputs on every backend. It may run the operation
    several times, with other sizes in place of unknown ones.

    Attributes:
        structure: `({path: [each call]}, output)`, with the index of each tensor.
    """

    def __init__(self, model, layers):
        super().__init__()
        self.model, self.layers, self.structure = model, layers, None

    def call(self, x):
        with recording(
            [*seams_of(self.layers), *heads_of(self.model)], keys_of(self.layers)
        ) as calls:
            output = called(self.model, x, training=False)
        found = {path: calls.get(id(layer), []) for path, layer in self.layers.items()}
        tensors = []

        def index(value):
            if not keras.ops.is_tensor(value):
                return None
            tensors.append(value)
            return len(tensors) - 1

        self.structure = keras.tree.map_structure(index, (found, output))
        return tensors


def _shows(model, path):
    """Returns whether the output of a layer can leave the layers around it."""
    try:
        refuse_checkpoints(model, model, path)
    except ValueError:
        return False
    return True


def _input_spec(model):
    """Returns symbolic inputs of a model, with any batch size."""
    if graph.is_graph(model):
        return keras.tree.map_structure(
            lambda tensor: keras.KerasTensor(tensor.shape, tensor.dtype), graph.inputs(model)
        )
    shape = (model.get_build_config() or {}).get("input_shape") if model.built else None
    if shape is None:
        raise ValueError(f"`{model.name}` is not built. Call it on a batch first.")
    return _spec_of(shape)


def _spec_of(shape):
    """Returns symbolic inputs of the shapes with which a subclassed model was built."""
    if isinstance(shape, dict):
        return {key: _spec_of(value) for key, value in shape.items()}
    if any(isinstance(each, (dict, list, tuple)) for each in shape):
        return [_spec_of(value) for value in shape]
    return keras.KerasTensor((None, *shape[1:]), keras.config.floatx())


def _described(spec):
    return keras.tree.map_structure(lambda each: f"{each.dtype}{tuple(each.shape)}", spec)
