"""Chooses the units to keep in a model with a config: heads, hidden units, and `hidden_dim`.

The teacher is compared with a model of smaller sizes. If an axis of a weight differs, its entries
are units. Units that must be the same everywhere form a group.
"""

import collections

import numpy as np

from keras_distill._keras.layers import sublayers
from keras_distill.models.shrinking import measures
from keras_distill.models.shrinking.copied_weights import Rows, children

STREAM = "the stream"
FLAT = {"query_projector": 1, "key_projector": 1, "value_projector": 1, "output_projector": 0}


class Differing(Rows):
    """Records the axes of weights that have fewer entries in the student."""

    def __init__(self):
        super().__init__()
        self.cuts = []  # (the teacher's variable, axis, its new size)

    def cut(self, value, shape, weight):
        self.cuts += [(weight, axis, size) for axis, size in enumerate(shape)
                      if value.shape[axis] != size]  # fmt: skip
        return super().cut(value, shape, weight)


class Chosen(Rows):
    """The entries that a student keeps of every axis, and the factors of its norms.

    Args:
        kept: `{id of a weight: {axis: kept entries}}`.
        factors: `{id of a weight: factor}`.
    """

    def __init__(self, kept, factors):
        super().__init__()
        self.kept, self.factors = kept, factors

    def cut(self, value, shape, weight):
        for axis, entries in self.kept.get(id(weight), {}).items():
            value = np.take(value, entries, axis=axis)
        return super().cut(value, shape, weight) * self.factors.get(id(weight), 1)


class Group:
    """Units that are kept or dropped alike at all their places.

    Args:
        keep: how many units to keep.
        count: how many units there are.
    """

    def __init__(self, keep, count):
        self.keep, self.count, self.places = keep, count, []

    def entries(self, units, place):
        """Returns the entries of an axis that belong to units; a head has several adjacent ones."""
        each = place.weight.shape[place.axis] // self.count
        return (np.asarray(units)[:, None] * each + np.arange(each)).ravel()

    def best(self, vectors):
        """Returns the most important units, ascending; the first ones if they are equal."""
        total = sum(np.asarray(vector).reshape(self.count, -1).sum(axis=1) for vector in vectors)
        return np.sort(np.argsort(-total, kind="stable")[: self.keep])


def chosen(teacher, cuts, sizes, importance):
    """Returns the `Chosen` entries of a student whose weights differ by `cuts`.

    Args:
        teacher: the model.
        cuts: the records of `Differing`.
        sizes: `{"hidden" | "heads" | "inner": {old size: new size}}` of the differences.
        importance: an `Importance`.

    Raises:
        ValueError: if the kind of units along an axis is not known.
    """
    groups, owners = collections.defaultdict(list), _owners(teacher)
    for weight, axis, size in cuts:
        if id(weight) not in owners:
            raise ValueError(
                f"`{teacher.name}` has adapters (LoRA), and its units cannot be measured. Save it "
                "without them, or leave `importance` out."
            )
        layer, parent = owners[id(weight)]
        place = measures.Place(layer, weight, axis)
        groups[_group(place, parent, size, sizes, teacher)].append((place, size))
    if sizes.get("heads") and not any(key[0] == "heads" for key in groups):
        raise ValueError(_unknown(teacher, "which entries belong to a head"))
    groups = {key: _made(key, each, sizes) for key, each in groups.items()}
    places = [place for group in groups.values() for place in group.places]
    vectors = iter(measures.worth(teacher, places, importance))
    kept, norms = collections.defaultdict(dict), []
    for key, group in groups.items():
        units = group.best([next(vectors) for _ in group.places])
        for place in group.places:
            kept[id(place.weight)][place.axis] = group.entries(units, place)
            if key[0] == STREAM and measures.scales(place.layer) is not None:
                norms.append((place, units))
    return Chosen(dict(kept), _factors(teacher, norms, importance))


def _owners(model):
    """Returns `{id of a weight: (its layer, the layer around that one)}`."""
    found = {}

    def visit(layer, parent):
        below = children(layer)
        inner = {id(weight) for each in sublayers(layer) for weight in each.weights}
        for weight in layer.weights:
            if id(weight) not in inner:
                found.setdefault(id(weight), (layer, parent))
        for each in below:
            visit(each, layer)

    visit(model, model)
    return found


def _group(place, parent, size, sizes, teacher):
    """Returns the key of a place's group, which all places of the group have."""
    layer, old = place.layer, place.weight.shape[place.axis]
    kind = type(parent).__name__
    if kind == "T5MultiHeadAttention" and FLAT.get(layer.name) == place.axis:
        return _of_t5(parent)
    if type(layer).__name__ == "T5MultiHeadAttention":  # the bias on the scores of each head
        return _of_t5(layer)
    for role in ("inner", "heads", "hidden"):
        if sizes.get(role, {}).get(old) == size:
            owner = layer if sublayers(layer) else parent
            return (STREAM, None) if role == "hidden" else (role, id(owner))
    raise ValueError(
        _unknown(teacher, f"what lies along axis {place.axis} of `{place.weight.path}`")
    )


def _of_t5(attention):
    """Returns the group key of T5's heads: all blocks of a side add the first block's bias.

    Attention to the encoder has no such bias.
    """
    own = id(attention) if attention.name == "cross_attention" else attention.is_decoder
    return "heads", f"T5 {own}"


def _made(key, members, sizes):
    """Returns the `Group` of some places and their new sizes."""
    old, new = min((place.weight.shape[place.axis], size) for place, size in members)
    if key[0] == "heads":  # no axis of T5's cross attention has the length of the number of heads
        counts = {each: keep for each, keep in sizes["heads"].items() if each <= old}
        old, new = (old, new) if old in counts else max(counts.items())
    group = Group(new, old)
    group.places = [place for place, _ in members]
    return group


def _factors(teacher, norms, importance):
    if not norms:
        return {}
    gains = measures.gains([(place.layer, units) for place, units in norms], teacher, importance)
    return {id(place.weight): gains[id(place.layer)] for place, _ in norms
            if place.weight.name in ("gamma", "scale", "weight")}  # fmt: skip


def _unknown(teacher, what):
    return (
        f"`{teacher.name}` cannot be cut by importance, because it is not clear {what}. Leave "
        "`importance` out to keep the first rows and columns."
    )
