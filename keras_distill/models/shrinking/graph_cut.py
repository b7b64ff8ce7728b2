"""Removes blocks from the graph of a functional or sequential model."""

import collections

import keras

from keras_distill._keras import graph
from keras_distill.models.shrinking import blocks
from keras_distill.models.shrinking.choice import selected


def cut(model, choice, name=None):
    """Returns a new model without the blocks that `choice` drops, and the `Selection` of the rest.

    The input of a dropped block takes the place of its output. If a model has no blocks of its own,
    the models inside of it are searched. Weights are not copied.

    Args:
        model: a functional or sequential model.
        choice: a `Choice`.
        name: the new model's name. Defaults to the old one.

    Raises:
        ValueError: if the model has no repeated named blocks, or a block cannot be bypassed.
    """
    stacks = blocks.stacks_of(model.layers)
    selection = blocks.Selection(selected(stacks, choice) if stacks else {})
    made = {}

    def clone(operation):
        if id(operation) not in made:
            made[id(operation)] = _clone(operation, choice, selection)
        return made[id(operation)]

    inputs, outputs = _replayed(model, clone, _bypasses(model, stacks, selection))
    if not stacks and not selection.nested:
        raise ValueError(
            f"`{model.name}` must have blocks with numbered names, such as `block_0_conv` and "
            "`block_1_conv`. Received the layers: "
            f"{', '.join(layer.name for layer in model.layers[:12])}"
        )
    return _as_before(model, inputs, outputs, made, name), selection


def remade(model, changed, name=None):
    """Returns a new model with the same graph, and `{id of a layer: new layer}`.

    Args:
        model: a functional or sequential model.
        changed: a function of a layer and its config that returns the new layer's config.
        name: the new model's name. Defaults to the old one.
    """
    made = {}

    def clone(operation):
        if id(operation) not in made:
            layer = isinstance(operation, keras.layers.Layer)
            made[id(operation)] = (
                type(operation).from_config(changed(operation, _config_of(operation)))
                if layer else operation
            )  # fmt: skip
        return made[id(operation)]

    inputs, outputs = _replayed(model, clone, {})
    return _as_before(model, inputs, outputs, made, name), made


def _as_before(model, inputs, outputs, made, name):
    """Returns a model of the same kind: a sequential model stays sequential."""
    name = name or model.name
    if isinstance(model, keras.Sequential):
        layers = [layer for layer in made.values() if isinstance(layer, keras.layers.Layer)]
        return keras.Sequential([inputs, *layers], name=name)
    return keras.Model(inputs, outputs, name=name)


def _clone(operation, choice, selection):
    """Returns a new layer with the student's number; may cut a model that is a layer."""
    if not isinstance(operation, keras.layers.Layer):
        return operation
    if isinstance(operation, keras.Model) and not selection.kept and _has_blocks(operation):
        inner, selection.nested[operation.name] = cut(operation, choice)
        return inner
    config = _config_of(operation)
    if "name" in config:
        config["name"] = selection.renamed(operation.name)
    return type(operation).from_config(config)


def _config_of(layer):
    try:
        return _without_adapters(layer.get_config())
    except NotImplementedError:
        raise ValueError(
            f"`{layer.name}`, a `{type(layer).__name__}`, cannot be copied, because it takes "
            "arguments and has no `get_config`. Build the student yourself."
        ) from None


def _without_adapters(config):
    """Returns a layer's config without LoRA, also in its sublayers."""
    if isinstance(config, dict):
        return {key: _without_adapters(value) for key, value in config.items()
                if key not in ("lora_rank", "lora_alpha")}  # fmt: skip
    return config


def _has_blocks(model):
    if not graph.is_graph(model):
        return False
    inner = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    return bool(blocks.stacks_of(model.layers)) or any(map(_has_blocks, inner))


def _replayed(model, clone, bypasses):
    """Runs the graph again; `bypasses` is `{id of a block's output: the tensor before it}`."""
    new = {}

    def found(tensor):
        while id(tensor) in bypasses:
            tensor = bypasses[id(tensor)]
        return tensor

    def fresh(tensor):
        new[id(tensor)] = keras.Input(
            batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name
        )
        return new[id(tensor)]

    inputs = keras.tree.map_structure(fresh, graph.inputs(model))
    needed = _needed(model, found)
    for node in graph.nodes(model):
        if id(node) not in needed:
            continue
        for tensor in node.input_tensors:
            new[id(tensor)] = new[id(found(tensor))]
        args, kwargs = node.arguments.fill_in(new)
        results = clone(node.operation)(*args, **kwargs)
        for old, result in zip(node.outputs, keras.tree.flatten(results)):
            new[id(old)] = result
    outputs = keras.tree.map_structure(lambda t: new[id(found(t))], graph.outputs(model))
    return inputs, outputs


def _needed(model, found):
    """Returns the ids of the nodes that the outputs need."""
    makers = {id(out): node for node in graph.nodes(model) for out in node.outputs}
    needed, waiting = set(), [found(t) for t in keras.tree.flatten(graph.outputs(model))]
    while waiting:
        node = makers.get(id(waiting.pop()))
        if node is not None and id(node) not in needed:
            needed.add(id(node))
            waiting += [found(tensor) for tensor in node.input_tensors]
    return needed


def _bypasses(model, stacks, selection):
    """Returns `{id of a dropped block's output: its input}`."""
    bypasses = {}
    for stack, indices in stacks.items():
        kept = set(selection.kept[stack].values())
        if kept >= set(indices):
            continue
        chain = _Chain(model, stack, indices)
        for index in indices:
            if index not in kept:
                received, given = chain.ends(index)
                if received.shape != given.shape:
                    raise ValueError(
                        f"`{stack}{index}` cannot be dropped, because it changes the shape from "
                        f"{tuple(received.shape)} to {tuple(given.shape)}. Keep it."
                    )
                bypasses[id(given)] = received
    return bypasses


class _Chain:
    """The blocks of a stack, one after the other in the graph."""

    def __init__(self, model, stack, indices):
        self.stack, self.indices = stack, indices
        self.nodes = graph.nodes(model)
        self.outputs = {id(t) for t in keras.tree.flatten(graph.outputs(model))}
        self.members = {index: self._named(index) for index in indices}
        self.after = {index: self._descendants(index) for index in indices}
        self.received = {}
        for before, index in zip([None, *indices], indices):
            self.received[index] = self._entry(before, index)

    def ends(self, index):
        """Returns a block's input from the block before, and its output to the next."""
        if index != self.indices[-1]:
            given = self.received[self.indices[self.indices.index(index) + 1]]
        else:
            given = self._last_output()
        if self.received[index] is None:
            raise ValueError(
                f"`{self.stack}{index}` cannot be dropped, because it is not clear which input "
                "would take its place. Keep the first block."
            )
        return self.received[index], given

    def _named(self, index):
        found = []
        for node in self.nodes:
            part = blocks.part_of(node.operation.name, (self.stack,))
            if part is not None and part.index == index:
                found.append(node)
        return found

    def _descendants(self, index):
        """Returns the ids of the tensors that depend on a block."""
        members = {id(node) for node in self.members[index]}
        tensors = set()
        for node in self.nodes:
            if id(node) in members or any(id(t) in tensors for t in node.input_tensors):
                tensors.update(id(t) for t in node.outputs)
        return tensors

    def _entry(self, before, index):
        """Returns the one tensor by which a block depends on the block before."""
        outside = {}
        for node in self.members[index]:
            for tensor in node.input_tensors:
                if id(tensor) not in self.after[index]:
                    outside[id(tensor)] = tensor
        if before is not None:
            outside = {key: t for key, t in outside.items() if key in self.after[before]}
        if len(outside) == 1:
            return next(iter(outside.values()))
        if before is None:
            return None
        raise ValueError(
            f"{len(outside)} tensors join `{self.stack}{before}` and `{self.stack}{index}`, but "
            "blocks can only be dropped from a chain, in which one tensor joins two blocks."
        )

    def _last_output(self):
        """Returns the last block's output, by comparing its operations with the block before."""
        before, last = self.indices[-2:]
        length = collections.Counter(map(_kind, self._region(before, self.received[last])))
        following = [n for n in self.nodes if any(id(t) in self.after[last] for t in n.outputs)]
        region = following[: sum(length.values())]
        same = collections.Counter(map(_kind, region)) == length
        inside = {id(node) for node in region}
        ends = {}
        for node in region:
            for tensor in node.outputs:
                used = [n for n in self.nodes if any(t is tensor for t in n.input_tensors)]
                if id(tensor) in self.outputs or any(id(n) not in inside for n in used):
                    ends[id(tensor)] = tensor
        if not same or len(ends) != 1:
            raise ValueError(
                f"`{self.stack}{last}` cannot be dropped, because its last layer is unknown. It "
                f"differs from `{self.stack}{before}`. Keep the last block, or name its last layer."
            )
        return next(iter(ends.values()))

    def _region(self, index, end):
        """Returns the nodes of a block, from its start to its end."""
        wanted, found = {id(end)}, []
        for node in reversed(self.nodes):
            here = any(id(t) in self.after[index] for t in node.outputs)
            if here and any(id(t) in wanted for t in node.outputs):
                found.append(node)
                wanted.update(id(t) for t in node.input_tensors)
        return found


def _kind(node):
    return type(node.operation).__name__
