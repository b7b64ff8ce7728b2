"""Copies a teacher's weights into a student cut from it."""

import collections
import re

import keras
import numpy as np

from keras_distill._keras.adapted import copy_adapted
from keras_distill._keras.layers import sublayers
from keras_distill.models.shrinking import blocks

KINDS = (bool, str, float)  # types of settings that must be equal in two blocks
PLACE = ("name", "built", "trainable", "lora_enabled", "lora_alpha")
ADAPTED = ("kernel", "embeddings")  # properties to which Keras adds the adapters' product


class Rows:
    """The entries of a teacher's axis that a student keeps.

    Args:
        vocabulary: the size of the teacher's vocabulary, or `None` if it is not cut.
        ids: the kept ids of its tokens.
    """

    def __init__(self, vocabulary=None, ids=None):
        self.vocabulary, self.ids = vocabulary, ids

    def cut(self, value, shape, weight):
        """Cuts `value` to `shape`: keeps kept tokens' rows, and the first entries of other axes.

        Args:
            value: the content of the weight, an array.
            shape: the shape of the student's weight.
            weight: the teacher's weight.
        """
        for axis, size in enumerate(shape):
            if value.shape[axis] == size:
                continue
            words = self.ids is not None and value.shape[axis] == self.vocabulary
            words = words and size == len(self.ids)
            value = np.take(value, self.ids if words else np.arange(size), axis=axis)
        return value


def copy(student, teacher, selection, rows):
    """Copies to every weight of `student` the value of its counterpart in `teacher`.

    Layers are paired by name, layers of blocks by `selection`, and layers with names from Keras by
    their order. Sublayers of paired layers are paired by position.

    Raises:
        ValueError: if the teacher has no counterpart of a student's layer. The error names it.
    """
    theirs = {layer.name: layer for layer in children(teacher)}
    in_order = _in_order(children(student), theirs.values(), selection)
    for layer in children(student):
        if isinstance(layer, keras.layers.InputLayer) or not layer.weights:
            continue
        name = selection.source(_of_teacher(layer.name, student.name, teacher.name, theirs))
        source = in_order.get(id(layer), theirs.get(name))
        if source is None:
            raise ValueError(_without_counterpart(layer, name, teacher, selection))
        inside = selection.nested.get(source.name, selection)
        if isinstance(layer, keras.Model) or any(inside.holds(b.name) for b in children(layer)):
            copy(layer, source, inside, rows)
        else:
            _copy_layer(layer, source, theirs.get(layer.name), rows)


def _in_order(ours, theirs, selection):
    """Returns `{id of a student's layer: the teacher's}` of layers with names from Keras.

    Keras numbers such names anew for every model, so the same name may be another layer's.
    """
    pairs = {}
    unnamed = [_unnamed(side, selection) for side in (ours, theirs)]
    for kind, layers in unnamed[0].items():
        others = unnamed[1].get(kind, [])
        if kept := selection.kept.get(kind.__name__):
            others = [others[position] for position in kept.values()]
        if len(layers) == len(others):
            pairs.update((id(layer), other) for layer, other in zip(layers, others))
    return pairs


def _unnamed(layers, selection):
    """Returns `{class: layers}` with weights and names from Keras, outside of the blocks."""
    found = collections.defaultdict(list)
    for layer in layers:
        if layer.weights and not selection.holds(layer.name) and blocks.named_by_keras(layer):
            found[type(layer)].append(layer)
    return found


def _of_teacher(name, student, teacher, theirs):
    """Returns a layer's name in the teacher, if it begins with its model's, as DINOv2's do."""
    rest = name.removeprefix(f"{student}_")
    found = [each for each in (name, f"{teacher}_{rest}", rest) if each in theirs]
    return found[0] if found else name


def _without_counterpart(layer, name, teacher, selection):
    if selection.holds(layer.name):
        return (
            f"`{layer.name}` of the student needs a layer `{name}`, which `{teacher.name}` does "
            f"not have. Choose other blocks. Received: {_told(selection)}"
        )
    return (
        f"`{layer.name}` of the student has no counterpart in `{teacher.name}`, because a "
        f"`{type(teacher).__name__}` of these sizes has one more layer. Choose other sizes, or "
        "build the student yourself."
    )


def children(layer):
    """Returns the direct sublayers of a layer, or the layers of a model's graph."""
    if isinstance(layer, keras.Model) and layer.layers:
        return layer.layers
    return sublayers(layer)


def _copy_layer(layer, source, in_place, rows):
    """Copies one layer; weights that `source` lacks come from the block that it replaces."""
    ours, theirs = _weights(layer), _weights(source)
    instead = _weights(in_place) if in_place is not None and in_place is not source else {}
    extra, missing = set(theirs) - set(ours), set(ours) - set(theirs) - set(instead)
    if extra or missing:
        raise ValueError(_other_weights(layer, source, in_place, extra | missing))
    if set(ours) == set(theirs):
        _check_settings(layer, source)
    for key, variable in ours.items():
        weight = theirs.get(key, instead.get(key))
        value = keras.ops.convert_to_numpy(weight)
        if len(value.shape) != len(variable.shape) or any(
            size < wanted for size, wanted in zip(value.shape, variable.shape)
        ):
            raise ValueError(
                f"The weights of the teacher's `{source.name}` cannot be copied to "
                f"`{layer.name}`, because the shapes of `{key[-1]}` differ, {value.shape} and "
                f"{tuple(variable.shape)}."
            )
        variable.assign(rows.cut(value, variable.shape, weight))
    copy_adapted(layer, source)


def _other_weights(layer, source, in_place, keys):
    named = ", ".join(sorted({"/".join(map(str, key)) for key in keys}))
    if in_place is not None and in_place is not source:
        return (
            f"The teacher's `{source.name}` cannot replace `{in_place.name}`, because only "
            f"one of them has the weights {named}. Choose `layers` that keep `{in_place.name}`."
        )
    return (
        f"The teacher's `{source.name}` cannot be cut, because the weights {named} differ from "
        f"those of a new `{layer.name}`. Was the layer changed after it was built?"
    )


def _weights(layer, place=()):
    """Returns `{position of the sublayer, ..., name of the weight: value}` of a layer's weights.

    With LoRA the value is the effective weight, `kernel + A B * alpha / rank`.
    """
    below = list(sublayers(layer))
    inner = {id(variable) for sublayer in below for variable in sublayer.weights}
    own = [variable for variable in layer.weights if id(variable) not in inner]
    found = {(*place, _name_of(variable, index)): variable for index, variable in enumerate(own)}
    if len(found) != len(own):
        found = {(*place, index, v.name): v for index, v in enumerate(own)}
    if getattr(layer, "lora_enabled", False):
        found = {key: getattr(layer, key[-1]) if key[-1] in ADAPTED else value
                 for key, value in found.items() if not key[-1].startswith("lora_")}  # fmt: skip
    for index, sublayer in enumerate(below):
        found.update(_weights(sublayer, (*place, index)))
    return found


def _name_of(variable, index):
    """Returns a weight's name, or its position if Keras has numbered it ("variable_7")."""
    return f"variable_{index}" if re.fullmatch(r"variable(_\d+)?", variable.name) else variable.name


def _check_settings(layer, source):
    """Raises an error for a block that would behave differently in its new place."""
    for key, value in vars(layer).items():
        theirs = getattr(source, key, value)
        if isinstance(value, KINDS) and key not in PLACE and not key.startswith("_"):
            if isinstance(theirs, KINDS) and theirs != value:
                raise ValueError(
                    f"The teacher's `{source.name}` cannot replace `{layer.name}`, because their "
                    f"`{key}` differs, {theirs} and {value}. Choose `layers` that repeat the "
                    "teacher's pattern of blocks."
                )


def _told(selection):
    return {stack: list(blocks.values()) for stack, blocks in selection.kept.items()}
