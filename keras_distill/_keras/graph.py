"""The graphs of functional and sequential models: inputs, outputs, calls in order, and parts.

Keras has public names for the ends of such a model (`input`, `output`) and for its operations, but
none for its nodes. This is why the module uses private names. A node is one call of an operation,
with arguments and outputs. A layer that is called twice has two nodes.
"""

import keras
from keras.src.models.functional import Functional

from keras_distill._keras.layers import set_mask


def functional(model):
    """Returns the functional model inside a sequential one (`_functional`), or the model."""
    return (model._functional if isinstance(model, keras.Sequential) else None) or model


def is_graph(model):
    """Returns whether a model is functional, or sequential and built."""
    return isinstance(functional(model), Functional)


def runs_its_graph(model):
    """Returns whether a call of the model only runs its graph: its class has no `call` of its own.

    The class of functional models has no public name to compare with.
    """
    return is_graph(model) and type(model).call in (Functional.call, keras.Sequential.call)


def inputs(model):
    """Returns the symbolic inputs of a graph, in the structure that the model takes."""
    return functional(model).input


def outputs(model):
    """Returns the symbolic outputs in the model's structure; `None` if the model is no graph."""
    return functional(model).output if is_graph(model) else None


def output_keys(model):
    """Returns the names of a model's outputs if it returns a dict, else an empty list.

    A model that is no graph declares them as `output_names`, which Keras reads too. (The
    `output_names` of a graph are the names of its last layers.)
    """
    if is_graph(model):
        structure = outputs(model)
        return list(structure) if isinstance(structure, dict) else []
    return list(getattr(model, "output_names", None) or [])


def output_names(model):
    """Returns Keras's names of a model's outputs for `compile` and `fit`, in their order.

    The names of a graph's outputs are those of its last layers. The list is empty if there are no
    names, or if two outputs have the same name.
    """
    owner = functional(model) if is_graph(model) else model
    names = list(getattr(owner, "output_names", None) or [])
    return names if len(set(names)) == len(names) else []


def nodes(model):
    """Returns every call of a graph in the order of its run, without the inputs.

    The order is that of `_nodes_by_depth`: `operations`, which is public, lists each layer once.
    """
    by_depth = functional(model)._nodes_by_depth
    ordered = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return [node for node in ordered if not node.is_input]


def producer(tensor):
    """Returns the node that a symbolic tensor comes from."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def operation_of(tensor):
    """Returns the layer or operation that a symbolic tensor comes from."""
    return tensor._keras_history.operation


def inputs_of(tensor):
    """Returns the symbolic inputs of the operation that a symbolic tensor comes from."""
    return producer(tensor).input_tensors


def needed(model, tensors):
    """Returns the nodes of a graph that symbolic tensors need, in the order of their run."""
    found, waiting = set(), list(tensors)
    while waiting:
        node = producer(waiting.pop())
        if id(node) not in found:
            found.add(id(node))
            waiting += node.input_tensors
    return [node for node in nodes(model) if id(node) in found]


def given(model, x, mask=None):
    """Returns `{id of a symbolic input: value}` for the inputs of a call of a model.

    `_standardize_inputs` is what the model itself calls first. It takes a dict, a list or one
    tensor as the model does, converts them to the inputs' dtypes and keeps their masks.
    """
    graph = functional(model)
    values = keras.tree.flatten(x)
    if not any(isinstance(value, keras.KerasTensor) for value in values):  # else it adds to a graph
        values = graph._standardize_inputs(x)
    elif isinstance(x, dict) and not isinstance(graph.input, dict):
        values = [x[each.name] for each in graph.inputs]
    if mask is not None:  # has the structure of `x`; usually the tensor carries its mask
        for value, each in zip(values, keras.tree.flatten(mask)):
            if each is not None:
                set_mask(value, each)
    return {id(symbol): value for symbol, value in zip(graph.inputs, values)}


def takes_any_size(model):
    """Returns whether the size of inputs may differ from batch to batch, if the model tells."""
    if not is_graph(model):
        return True
    return any(None in symbol.shape[1:] for symbol in keras.tree.flatten(inputs(model)))


def misfit(model, x):
    """Returns in words how a graph's inputs differ from `x`, or `None` if they fit.

    An axis more or less at the end also fits if its size is one, since Keras adds or removes it.
    """
    if not runs_its_graph(model):
        return None
    structure = inputs(model)
    symbols, values = keras.tree.flatten(structure), keras.tree.flatten(x)
    if isinstance(structure, dict) and isinstance(x, dict):
        if not set(structure) <= set(x):
            return f"the inputs {list(structure)}", str(list(x))
        values = keras.tree.flatten({name: x[name] for name in structure})
    elif isinstance(x, dict) and {symbol.name for symbol in symbols} <= set(x):
        values = [x[symbol.name] for symbol in symbols]
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
    """Runs nodes one after the other; returns `{id of a symbol: value}` with their outputs added.

    Args:
        calls: nodes, each after the nodes that it needs.
        known: the values so far, as `given` returns them. It is not changed.
        training: the argument `training` for every layer. `None` keeps what the graph says.
        chosen: a function of a node that returns what to call. Defaults to the node's operation.
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
    """Returns the outputs of a graph on symbolic `x`, as new nodes; the model becomes no node."""
    known = run(nodes(model), given(model, x))
    return keras.tree.map_structure(lambda symbol: known[id(symbol)], outputs(model))


class Opening:
    """Within the block, symbolic calls of some layers become calls of the layers inside of them.

    For a symbolic call of a layer Keras makes one node, whatever the layer holds, and writes it on
    the outputs as their origin. At the end of the block the outputs again come from the inner
    layers, and the outer layers forget the node.
    """

    def __init__(self, containers):
        self.functions = {id(each): self._opened(each) for each in containers}
        self._before = [(each, len(each._inbound_nodes)) for each in containers]
        self._histories = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for tensor, history in reversed(self._histories):  # inner layers come first
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
    """Returns whether a value is a symbolic tensor that comes from a layer or operation."""
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
    """Returns those entries of a dict of inputs that the model reads, by the names of its inputs.

    The same dict may hold inputs that only another model reads.
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
