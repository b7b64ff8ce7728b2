"""The part of a functional model that some of its layers need."""

import keras

from keras_distill import taps

import tensorflow as tf  # isort: skip: after the check of the backend in `taps`


def part_of(model, paths):
    """A model that runs only what the layers at `paths` need, with the same layers and weights.

    Models inside are cut too. Where nothing can be left out, the model itself is returned: a
    path names an end of the model, or the model is no graph of layers (subclassed, or with a
    `call` of its own).
    """
    if not paths or any(taps.is_edge(path) for path in paths) or not _is_graph(model):
        return model
    with tf.init_scope():
        ends = _ends(model, paths)
    return model if ends is None else keras.Model(_functional(model)._inputs_struct, ends)


def _ends(model, paths):
    """The symbolic tensors to run as far as, or `None` where a layer is not in the graph."""
    below = {}
    for path in paths:
        head, _, rest = path.removesuffix(taps.SCORES).partition("/")
        below.setdefault(id(taps.find_layer(model, head)), []).append((head, rest))
    ends = []
    for asked in below.values():
        layer = taps.find_layer(model, asked[0][0])
        nodes = _nodes(model, layer)
        if not nodes:
            return None
        inner = _inner(layer, [rest for _, rest in asked])
        for node in nodes:
            args, kwargs = node.arguments.args, node.arguments.kwargs
            ends += node.outputs if inner is layer else keras.tree.flatten(inner(*args, **kwargs))
    return ends


def _inner(layer, rests):
    """The part of a model inside that is asked for, or the layer as it is."""
    if not all(rests) or not _is_graph(layer):
        return layer
    ends = _ends(layer, rests)
    inputs = _functional(layer)._inputs_struct
    return layer if ends is None else keras.Model(inputs, ends, name=layer.name)


def _nodes(model, layer):
    """Every call of a layer in a model's own graph."""
    return [node for nodes in _functional(model)._nodes_by_depth.values() for node in nodes
            if node.operation is layer and not node.is_input]  # fmt: skip


def _functional(model):
    return getattr(model, "_functional", None) or model


def _is_graph(model):
    """Whether running a model is running its graph."""
    graph = getattr(_functional(model), "_nodes_by_depth", None)
    return bool(graph) and type(model).call.__qualname__ in ("Functional.call", "Sequential.call")
