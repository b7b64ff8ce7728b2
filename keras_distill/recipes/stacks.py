"""Finds the blocks of a model by their structure: layers that repeat and hold an attention.

A block is the innermost layer that holds an attention and, outside of it, a feed-forward part, and
that returns a sequence. Blocks of one class at one place are a stack. If one forward pass calls a
layer several times, as in ALBERT, every call is a block.
"""

import collections
from typing import NamedTuple

from keras_distill import taps
from keras_distill._keras import graph
from keras_distill.recipes.attention_layers import attentions


class Block(NamedTuple):
    """A block of a transformer, or the end of another network's stage.

    Attributes:
        path: the path of its output, as a term takes it.
        shape: the shape of its output.
        attentions: its `Attention`s in order, first to its own tokens, then to an encoder's.
        side: `"encoder"` or `"decoder"` in a model of both, else `None`.
    """

    path: str
    shape: tuple
    attentions: tuple = ()
    side: str | None = None


def stacks_of(model):
    """Returns the stacks of a transformer's blocks, `[[Block]]`, a decoder last; else none."""
    calls = _calls(model)
    found = _by_attention(model, calls) or _written_out(model, calls) or _repeated(model, calls)
    found = {place: _in_turns(model, blocks) for place, blocks in found.items()}
    groups = sorted(found.values(), key=_decodes)
    if len({_decodes(blocks) for blocks in groups}) < 2:
        return groups
    sides = ["decoder" if _decodes(blocks) else "encoder" for blocks in groups]
    return [[block._replace(side=side) for block in each] for each, side in zip(groups, sides)]


def _calls(model):
    """Returns `{path: [shape of each call]}` of every layer, under one path each."""
    found, seen = {}, set()
    for path, shapes in taps.calls(model, least=0).items():
        layer = taps.find_layer(model, path)
        if id(layer) not in seen:
            seen.add(id(layer))
            found[path] = [shape for shape in shapes if shape is not None]
    return found


def _decodes(blocks):
    """Returns whether blocks also attend to an encoder, or have names like T5Gemma 2's decoder."""
    name = blocks[0].path.rpartition("/")[2]
    return len(blocks[0].attentions) > 1 or "decoder" in name


def _by_attention(model, calls):
    """Returns `{(place, class, shape): blocks}` of layers with attention and feed-forward parts."""
    inside = {path: each for path, each in _attentions_of_blocks(model).items() if path in calls}
    crossing = {path for path, each in inside.items() if len(each) > 1}
    kinds = {_place(model, path, calls) for path in inside if _is_sequence(calls[path])}
    if not kinds and (odd := [path for path in inside if calls[path]]):
        raise ValueError(_odd(model, odd[-1], calls))
    groups = collections.defaultdict(list)
    for path in calls:  # a layer without attention among others of its class is a block, too
        if _is_sequence(calls[path]) and (place := _place(model, path, calls)) in kinds:
            attending = inside.get(path, ())
            groups[(*place, path in crossing)] += _calls_of(path, calls, attending)
    return dict(groups)


def _odd(model, path, calls):
    inside = [below for below in taps.paths(taps.find_layer(model, path)) if "/" not in below]
    return (
        f"`{path}` of `{model.name}`, a `{type(taps.find_layer(model, path)).__name__}`, holds an "
        "attention layer but does not return a tensor (batch, tokens, width), so it cannot be "
        f"compared as a block. Give paths of layers inside it ({', '.join(inside)}). Received: "
        f"{calls[path][0]}"
    )


def _attentions_of_blocks(model):
    """Returns `{path of a block: its attentions}`; a block is more than an attention."""
    found, every = collections.defaultdict(list), attentions(model)
    for attention in every:
        path = attention.path
        while "/" in path:
            path = path.rpartition("/")[0]
            if _feeds_forward(model, path, every):
                found[path].append(attention)
                break
    inner = {path for path in found if any(o.startswith(f"{path}/") for o in found)}
    return {path: tuple(each) for path, each in found.items() if path not in inner}


def _feeds_forward(model, path, every):
    """Returns whether a layer has matrices that are not those of its attentions."""
    within = [each.path for each in every if each.path.startswith(f"{path}/")]
    attending = {id(w) for each in within for w in taps.find_layer(model, each).weights}
    weights = taps.find_layer(model, path).weights
    return any(len(weight.shape) > 1 and id(weight) not in attending for weight in weights)


def _repeated(model, calls):
    """Finds blocks without attention, as FNet's: composite layers that repeat at one place."""
    groups = collections.defaultdict(list)
    for path, shapes in calls.items():
        if _is_sequence(shapes) and len(_hidden(shapes[0])) == 3 and _mixes(model, path):
            groups[_place(model, path, calls)] += _calls_of(path, calls)
    largest = max(groups.values(), key=len, default=[])
    alone = len(groups) == 1  # a student with one block
    return {"": largest} if len(largest) > 1 or largest and alone else {}


def _mixes(model, path):
    """Returns whether a layer consists of layers with weights, one of which maps its input."""
    layer = taps.find_layer(model, path)
    inner = [taps.find_layer(layer, below) for below in taps.paths(layer)]
    weighted = [each for each in inner if each.weights]
    embeds = any("Embedding" in type(each).__name__ for each in (layer, *inner))
    return len(weighted) > 1 and not embeds


def _written_out(model, calls):
    """Finds blocks in a model whose attention layers stand beside the others, not in block layers.

    A block ends with the last sum, or else the last normalization, before the next attention.
    """
    found = {attention.path: attention for attention in attentions(model)}
    blocks, attention, end = [], None, None
    for path in [*(path for path in calls if calls[path]), None]:
        if path in found or path is None:
            if attention is not None and end is not None:
                blocks += _calls_of(end, calls, (attention,))
            attention, end = found.get(path), None
        elif _is_sequence(calls[path]) and _ends(model, path, end):
            end = path
    return {"": blocks} if blocks else {}


def _ends(model, path, before):
    """Returns whether a layer may end a block; a sum is preferred to a normalization."""
    kind, other = (type(taps.find_layer(model, each)).__name__ if each else "" for each in
                   (path, before))  # fmt: skip
    return kind == "Add" or "Normalization" in kind and other != "Add"


def _calls_of(path, calls, attending=()):
    """Returns a block for every call of a layer, with the first of several values."""
    shapes = calls[path]
    part = "" if _is_shape(shapes[0]) else ":0"
    return [
        Block(
            path=f"{path}#{turn}{part}" if len(shapes) > 1 else path + part,
            shape=_hidden(shape),
            attentions=tuple(_in_turn(each, turn, len(shapes), calls) for each in attending),
        )
        for turn, shape in enumerate(shapes)
    ]


def _in_turn(attention, turn, turns, calls):
    """Returns an attention as one turn of its block calls it."""
    projections = {
        name: _call_in_turn(path, turn, turns, calls)
        for name, path in attention.projections.items()
    }
    return attention._replace(
        path=_call_in_turn(attention.path, turn, turns, calls),
        projections=projections,
        split=all(len(calls[path][0]) == 4 for path in attention.projections.values()),
    )


def _in_turns(model, blocks):
    """Returns blocks in the order of their calls, if layers take turns as ALBERT's may."""
    place = blocks[0].path.rpartition("/")[0]
    around = taps.find_layer(model, place) if place else model
    if not (any("#" in block.path for block in blocks) and graph.is_graph(around)):
        return blocks
    called = [node.operation for node in graph.nodes(around)]

    def when(block):
        path, _, turn = block.path.partition(":")[0].partition("#")
        layer = taps.find_layer(model, path)
        return [spot for spot, each in enumerate(called) if each is layer][int(turn or 0)]

    return sorted(blocks, key=when)


def _call_in_turn(path, turn, turns, calls):
    """Returns the path of a layer's call in one turn of its block.

    DeBERTa projects relative positions by the layers that project the tokens. If a turn has several
    calls, the first one counts that has the batch's axis, whose size is unknown.
    """
    shapes = calls[path]
    if len(shapes) < 2:
        return path
    each = len(shapes) // turns
    mine = range(turn * each, turn * each + each)
    tokens = [call for call in mine if _hidden(shapes[call])[0] is None]
    return f"{path}#{[*tokens, *mine][0]}"


def _place(model, path, calls):
    return path.rpartition("/")[0], type(taps.find_layer(model, path)), _hidden(calls[path][0])


def _is_sequence(shapes):
    """Returns whether a layer returns (batch, tokens, width) or (batch, rows, columns, width)."""
    hidden = _hidden(shapes[0]) if shapes else None
    return hidden is not None and len(hidden) in (3, 4) and hidden[0] is None


def _is_shape(shape):
    return isinstance(shape, tuple) and all(size is None or isinstance(size, int) for size in shape)


def _hidden(shape):
    """Returns the shape of a layer's output, or of the first of several."""
    if isinstance(shape, (list, tuple)) and not _is_shape(shape):
        shape = shape[0] if shape else None
    return tuple(shape) if isinstance(shape, (list, tuple)) else None
