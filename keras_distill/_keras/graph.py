"""The graphs of functional and sequential models: their ends, their calls in order, a run of some.

Why private names at all: Keras has public names for the ends of such a model (`input`, `output`)
and for its operations, but none for its nodes. A node is one call of an operation, with arguments
and outputs; a layer that is called twice has two of them.
"""

import keras
from keras.src.models.functional import Functional

from keras_distill._keras.layers import set_mask


def functional(model):
    """What a sequential model runs (`_functional`, which is not public); others are themselves."""
    return (model._functional if isinstance(model, keras.Sequential) else None) or model


def is_graph(model):
    """Whether a model is functional, or sequential and built."""
    return isinstance(functional(model), Functional)


def runs_its_graph(model):
    """Whether calling a model runs its graph and nothing else: its class has no `call` of its own.

    The class of functional models has no public name to compare with.
    """
    return is_graph(model) and type(model).call in (Functional.call, keras.Sequential.call)


def inputs(model):
    """The symbolic inputs of a graph, in the structure that the model takes."""
    return functional(model).input


def outputs(model):
    """The symbolic outputs of a graph in the model's structure; `None` for other models."""
    return functional(model).output if is_graph(model) else None


def output_keys(model):
    """The names of a model's outputs where it returns a dict of them, else an empty list.

    Those of a model that is no graph are what it declares as `output_names`, which is what Keras,
    too, looks up. (A graph's own `output_names` are those of its last layers.)
    """
    if is_graph(model):
        structure = outputs(model)
        return list(structure) if isinstance(structure, dict) else []
    return list(getattr(model, "output_names", None) or [])


def output_names(model):
    """The names by which Keras knows a model's outputs in `compile` and `fit`, in their order.

    Those of a graph are its last layers'. An empty list where there are none, or where two outputs
    have the same.
    """
    owner = functional(model) if is_graph(model) else model
    names = list(getattr(owner, "output_names", None) or [])
    return names if len(set(names)) == len(names) else []


def nodes(model):
    """Every call of a graph in the order in which the model runs them, without its inputs.

    `_nodes_by_depth` is the order: `operations`, which is public, lists each layer once.
    """
    by_depth = functional(model)._nodes_by_depth
    ordered = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return [node for node in ordered if not node.is_input]


def producer(tensor):
    """The node that a symbolic tensor comes from."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def operation_of(tensor):
    """The layer or operation that a symbolic tensor comes from."""
    return tensor._keras_history.operation


def inputs_of(tensor):
    """The symbolic tensors that the operation behind a symbolic tensor received."""
    return producer(tensor).input_tensors


def needed(model, tensors):
    """The nodes of a graph from which symbolic tensors come, in the order of their run."""
    found, waiting = set(), list(tensors)
    while waiting:
        node = producer(waiting.pop())
        if id(node) not in found:
            found.add(id(node))
            waiting += node.input_tensors
    return [node for node in nodes(model) if id(node) in found]


def given(model, x, mask=None):
    """`{id of a symbolic input: its value}` of what a model is called with.

    `_standardize_inputs` is what the model itself does first: it takes a dict, a list or one
    tensor as the model does, converts them to the inputs' dtypes and keeps their masks.
    """
    graph = functional(model)
    values = keras.tree.flatten(x)
    if not any(isinstance(value, keras.KerasTensor) for value in values):  # or it adds to a graph
        values = graph._standardize_inputs(x)
    elif isinstance(x, dict) and not isinstance(graph.input, dict):
        values = [x[each.name] for each in graph.inputs]
    if mask is not None:  # in the structure of `x`; usually it rides along with the tensor
        for value, each in zip(values, keras.tree.flatten(mask)):
            if each is not None:
                set_mask(value, each)
    return {id(symbol): value for symbol, value in zip(graph.inputs, values)}


def takes_any_size(model):
    """Whether inputs may differ in size from batch to batch, as far as the model says."""
    if not is_graph(model):
        return True
    return any(None in symbol.shape[1:] for symbol in keras.tree.flatten(inputs(model)))


def misfit(model, x):
    """What a graph takes and what it would get, in words, where these do not fit; else `None`.

    What Keras itself makes fit, an axis of size one more or less at the end, fits.
    """
    if not runs_its_graph(model):
        return None
    structure = inputs(model)
    symbols, values = keras.tree.flatten(structure), keras.tree.flatten(x)
    if isinstance(structure, dict) and isinstance(x, dict):
        if not set(structure) <= set(x):
            return f"the inputs {list(structure)}", str(list(x))
        values = keras.tree.flatten({name: x[name] for name in structure})
    if len(symbols) != len(values):
        return f"{len(symbols)} input(s)", str(len(values))
    for symbol, value in zip(symbols, values):
        asked, shape = tuple(symbol.shape), tuple(getattr(value, "shape", None) or ())
        if not shape or abs(len(asked) - len(shape)) == 1:
            continue
        if len(asked) != len(shape) or any(
            None not in pair and pair[0] != pair[1] for pair in zip(asked[1:], shape[1:])
        ):
            return f"an input of shape {asked}", str(shape)
    return None


def run(calls, known, training=None, chosen=lambda node: node.operation):
    """`known` with what these nodes compute, one after the other: `{id of a symbol: value}`.

    Args:
        calls: nodes, each after those that it needs.
        known: as `given` makes it; it is left as it is.
        training: for every layer; `None` leaves what the graph says.
        chosen: what is called for a node. Defaults to its operation.
    """
    known = dict(known)
    for node in calls:
        args, kwargs = node.arguments.fill_in(known)
        if training is not None and isinstance(node.operation, keras.layers.Layer):
            kwargs = {**kwargs, "training": training}
        values = keras.tree.flatten(chosen(node)(*args, **kwargs))
        known.update((id(symbol), value) for symbol, value in zip(node.outputs, values))
    return known


def replayed(model, x):
    """The outputs of a graph on symbolic `x`, as new nodes: the model itself becomes none."""
    known = run(nodes(model), given(model, x))
    return keras.tree.map_structure(lambda symbol: known[id(symbol)], outputs(model))


class Opening:
    """While it lasts, calls of some layers on symbols become calls of the layers inside of them.

    Keras makes one node of a layer's symbolic call, whatever the layer holds, and writes it on
    the outputs as where they come from. On leaving, the outputs come again from what is inside,
    and the layers forget the node.
    """

    def __init__(self, containers):
        self.functions = {id(each): self._opened(each) for each in containers}
        self._before = [(each, len(each._inbound_nodes)) for each in containers]
        self._histories = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for tensor, history in reversed(self._histories):  # of layers in layers the inner first
            tensor._keras_history = history
        for container, count in self._before:
            del container._inbound_nodes[count:]

    def _opened(self, container):
        def call(*args, **kwargs):
            value = _inside(container, args, kwargs)
            symbols = [each for each in keras.tree.flatten(value) if is_symbol(each)]
            self._histories += [(symbol, symbol._keras_history) for symbol in symbols]
            return value

        return call


def is_symbol(value):
    """Whether a value is a symbolic tensor that comes from a layer or operation."""
    return isinstance(value, keras.KerasTensor) and hasattr(value, "_keras_history")


def _inside(container, args, kwargs):
    if runs_its_graph(container) and args:
        return replayed(container, args[0])
    try:
        return container.call(*args, **kwargs)
    except (AttributeError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"An exit cannot read a layer inside `{container.name}` (a "
            f"{type(container).__name__}), because its `call` does not accept symbolic inputs "
            f"({error}). Attach the exit to the output of the whole layer."
        ) from error


def own_inputs(model, x):
    """Of a dict of inputs those that a model reads, by its inputs' names, where there are more.

    What another model reads besides rides along in the same dict.
    """
    if not isinstance(x, dict) or not is_graph(model):
        return x
    structure = inputs(model)
    if isinstance(structure, dict):
        names = {key: key for key in structure}
    else:
        names = keras.tree.map_structure(lambda symbol: symbol.name, structure)
    asked = set(keras.tree.flatten(names))
    return keras.tree.map_structure(lambda name: x[name], names) if asked < set(x) else x
