"""Finds the attention layers of a model, and the names of their projections.

This module alone knows how models name the projections of an attention layer. Keras has `query`,
`key` and `value`. KerasHub also has `query_dense` (Bloom, Falcon), `query_projector` (T5), `q_proj`
(SmolLM, DINOv3, Gemma 3n), `query_proj` (PaliGemma), `q_dense_layer` (ESM, RoFormer) and `q` (MiT).
One layer makes all three in `query_key_value` (GPT-NeoX) and `qkv` (Swin, ViTDet).
"""

import re
from typing import NamedTuple

from keras_distill import taps

_ENDING = r"(_(dense|proj|projector|projection|layer))*"
_ONE = re.compile(rf"_?(q|k|v|query|key|value){_ENDING}")
_FUSED = re.compile(rf"_?([a-z]+_)?(qkv|query_key_value){_ENDING}")
_LONG = {"q": "query", "k": "key", "v": "value"}
# XLNet's layer inherits Keras's attention, but computes its scores itself.
OWN_SCORES = ("TwoStreamRelativeAttention",)
NAMES = ("query", "key", "value")
HEADS = ("num_heads", "num_attention_heads", "num_query_heads", "heads")


class Attention(NamedTuple):
    """One attention layer of a model.

    Attributes:
        path: the path of the layer, from the model down.
        projections: `{"query": path, "key": path, "value": path}`, from the model down, or
            `{"query_key_value": path}` if one layer makes all three.
        heads: the number of its heads, or `None` if the layer does not tell.
        shows_scores: whether `path:scores` can be tapped.
        split: whether its projections have an axis of heads.
    """

    path: str
    projections: dict
    heads: int | None
    shows_scores: bool
    split: bool = True

    @property
    def fused(self):
        """Whether one layer makes query, key and value."""
        return {*self.projections} != {*NAMES}


def attentions(model):
    """Returns all attention layers of a model or layer, `[Attention]`, from the outside in."""
    found = []
    for path in taps.paths(model):
        layer = taps.find_layer(model, path)
        if names := _projections(layer):
            inside = {name: f"{path}/{below}" for name, below in names.items()}
            found.append(Attention(path, inside, _heads(layer), _shows_scores(model, path)))
    return found


def _projections(layer):
    """Returns `{"query": name of the sublayer, ...}`, or an empty dict for other layers."""
    found = {}
    for name in (path for path in taps.paths(layer) if "/" not in path):
        below = taps.find_layer(layer, name)
        if any(len(weight.shape) > 1 for weight in below.weights):
            held = [each for each, value in vars(layer).items() if value is below]
            for kind in filter(None, map(_kind, (name, *held))):
                found.setdefault(kind, name)
    if {*NAMES} <= {*found}:
        return {name: found[name] for name in NAMES}
    return {name: each for name, each in found.items() if name == "query_key_value"}


def _kind(name):
    """Returns the kind of a projection by its name, such as "query", or `None`."""
    if match := _ONE.fullmatch(name):
        return _LONG.get(match[1], match[1])
    return "query_key_value" if _FUSED.fullmatch(name) else None


def _shows_scores(model, path):
    if type(taps.find_layer(model, path)).__name__ in OWN_SCORES:
        return False
    try:
        taps.find_layer(model, f"{path}:scores")
    except ValueError:
        return False
    return True


def _heads(layer):
    """Returns the number of heads, for which attention layers have several names."""
    return next((getattr(layer, name) for name in HEADS if hasattr(layer, name)), None)
