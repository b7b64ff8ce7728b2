"""The part of a functional model that some of its layers need."""

import keras

from keras_distill import taps
from keras_distill._keras import graph
from keras_distill._keras.layers import sublayers


def part_of(model, paths):
    """Returns a layer that runs only those layers of a model that some paths need.

    The layers and weights are the model's own. They run in the model's own order, each as often as
    in the model. So a layer that is called several times gives the same values in the part and in
    the whole. Models inside the model are cut too.

    Args:
        model: a Keras model.
        paths: paths of its layers (see `taps`).

    Returns:
        A layer that is called as the model is. The model itself if nothing can be left out: a path
        names an input or output of the model, or the model is no graph of layers (subclassed, or
        with a `call` of its own).
    """
    if not paths or any(taps.is_edge(path) for path in paths) or not graph.runs_its_graph(model):
        return model
    wanted = {id(taps.find_layer(model, path)) for path in paths}
    return _cut(model, wanted) or model


def _cut(model, wanted):
    """Returns the part that calls the wanted layers, or `None` if that is all of the model."""
    calls = graph.nodes(model)
    ends = [node for node in calls if wanted & _held(node.operation)]
    found = {key for node in ends for key in _held(node.operation)}
    if not wanted & found:
        return None
    needed = graph.needed(model, [symbol for node in ends for symbol in node.outputs])
    inner = _inner_parts(needed, ends, wanted)
    if len(needed) == len(calls) and not inner:
        return None
    return Part(model, needed, inner)


def _held(operation):
    """Returns the ids of an operation and of all layers in it."""
    below = sublayers(operation, True) if isinstance(operation, keras.layers.Layer) else []
    return {id(operation), *map(id, below)}


def _inner_parts(needed, ends, wanted):
    """Returns `{id of a node: part}` of inner models whose outputs no other node needs."""
    used = {id(symbol) for node in needed for symbol in node.input_tensors}
    parts = {}
    for node in ends:
        model = node.operation
        whole = id(model) in wanted or any(id(symbol) in used for symbol in node.outputs)
        if not whole and isinstance(model, keras.Model) and graph.runs_its_graph(model):
            if part := _cut(model, wanted):
                parts[id(node)] = part
    return parts


class Part(keras.layers.Layer):
    """Runs some calls of a graph in the model's order, so that taps can watch the layers.

    Args:
        model: a functional or sequential model; the part uses its layers and weights.
        calls: the nodes to run.
        inner: `{id of a node: what runs in its place}`.
    """

    def __init__(self, model, calls, inner):
        super().__init__(name=model.name, dtype=model.dtype_policy, autocast=False)
        self.model, self.calls, self.inner = model, tuple(calls), dict(inner)
        self.supports_masking = True
        self.built = True

    def call(self, inputs, training=None, mask=None):  # the names are those of the model
        graph.run(self.calls, graph.given(self.model, inputs, mask), training,
                  lambda node: self.inner.get(id(node), node.operation))  # fmt: skip
        return []
