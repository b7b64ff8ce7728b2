"""Makes a graph with fewer channels: the same layers with smaller sizes."""

import math

import keras
import numpy as np

from keras_distill._keras.adapted import copy_adapted
from keras_distill._keras.layers import sublayers
from keras_distill.models.shrinking import graph_cut, measures
from keras_distill.models.shrinking.channels import Channels


def narrowed(model, share, importance=None, name=None):
    """Returns a functional or sequential model that keeps a share of every group of channels.

    Channels that are added to each other, as at a skip, form a group. The model's inputs and
    outputs, and the inputs of layers of unknown kind, keep all channels.

    Args:
        model: the teacher.
        share: a float in (0, 1]. The number of channels in a group is rounded up.
        importance: an `Importance`. Defaults to `None`, which keeps the first channels.
        name: the new model's name. Defaults to the old one.

    Raises:
        ValueError: if nothing can be cut.
    """
    if isinstance(share, bool) or not isinstance(share, float) or not 0 < share <= 1:
        raise ValueError(
            f"`width` of `{model.name}`, which has no config of sizes, must be a share in (0, 1], "
            f"as 0.5. Received: width={share}"
        )
    if any(getattr(layer, "lora_enabled", False) for layer in sublayers(model, recursive=True)):
        raise ValueError(
            f"`{model.name}` has adapters (LoRA) and cannot be cut by `width`. Cut its depth, or "
            "merge the adapters into the weights first."
        )
    channels = Channels(model)
    if not channels.groups:
        raise ValueError(
            f"`{model.name}` cannot be cut by `width`, because no layer was found whose channels "
            "can be fewer, such as a `Dense` or `Conv2D` before the last. Build the smaller "
            "student yourself."
        )
    dropped = _dropped(model, channels, share, importance)

    def clone(layer, config):
        if id(layer) in channels.sizes:
            size, units = channels.sizes[id(layer)]
            config[size] = len(_kept(units, dropped))
        if id(layer) in channels.shaped:
            count = len(_kept(channels.shaped[id(layer)], dropped))
            config["target_shape"] = (*layer.target_shape[:-1], count)
        return config

    student, made = graph_cut.remade(model, clone, name)
    factors = _factors(model, channels, dropped, importance)
    _copy(model, made, channels, dropped, factors)
    return student


def _dropped(model, channels, share, importance):
    """Returns the units that a student drops."""
    totals = {}
    if importance is not None:
        vectors = measures.worth(model, [place for place, _ in channels.places], importance)
        for (_, units), vector in zip(channels.places, vectors):
            for unit, value in zip(units.tolist(), vector.tolist()):
                totals[unit] = totals.get(unit, 0.0) + value
    dropped = set()
    for group in channels.groups:
        ranked = sorted(group, key=lambda unit: (-totals.get(unit, 0.0), unit))
        dropped.update(ranked[math.ceil(share * len(group)) :])
    return dropped


def _kept(units, dropped):
    return np.flatnonzero([unit not in dropped for unit in units.tolist()])


def _factors(model, channels, dropped, importance):
    """Returns `{id of a weight: factor}` of norms over channels, if importance is measured."""
    if importance is None:
        return {}
    norms = [(place, _kept(units, dropped)) for place, units in channels.places
             if measures.scales(place.layer) is not None]  # fmt: skip
    cut = [(place, kept) for place, kept in norms if len(kept) < place.weight.shape[0]]
    if not cut:
        return {}
    found = measures.gains([(place.layer, kept) for place, kept in cut], model, importance)
    return {id(place.weight): found[id(place.layer)] for place, _ in cut
            if place.weight.name in ("gamma", "scale")}  # fmt: skip


def _copy(model, made, channels, dropped, factors):
    """Copies the kept units' weights into the new layers."""
    axes = {}
    for place, units in channels.places:
        axes.setdefault(id(place.weight), {})[place.axis] = _kept(units, dropped)
    for layer in model.layers:
        if id(layer) not in made:
            continue
        for old, new in zip(layer.weights, made[id(layer)].weights, strict=True):
            value = keras.ops.convert_to_numpy(old)
            for axis, entries in axes.get(id(old), {}).items():
                value = np.take(value, entries, axis=axis)
            new.assign(value * factors[id(old)] if id(old) in factors else value)
        copy_adapted(made[id(layer)], layer)
