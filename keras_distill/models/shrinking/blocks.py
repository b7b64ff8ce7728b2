"""Finds repeated blocks by the names of their layers, and records which of them are kept."""

import collections
import re
from typing import NamedTuple

WORDS = ("block", "layer", "cell", "unit", "stage", "encoder", "decoder")


class Part(NamedTuple):
    """The parts of a layer's name: "stack0_block1_conv" is ("stack0_block", 1, "_conv")."""

    stack: str
    index: int
    rest: str


class Selection:
    """The blocks of each stack that a student keeps, with the names of their layers.

    Args:
        kept: `{stack: {index of the student's block: index of the teacher's}}`.
    """

    def __init__(self, kept):
        self.kept = kept
        self.nested = {}  # the selections of inner models, by name
        self._student = {
            stack: {old: new for new, old in blocks.items()} for stack, blocks in kept.items()
        }

    def source(self, name):
        """Returns the teacher's name of a student's layer."""
        part = part_of(name, self.kept)
        return name if part is None else _joined(part, self.kept[part.stack].get(part.index))

    def renamed(self, name):
        """Returns the student's name of a teacher's layer, or `None` if its block is dropped."""
        part = part_of(name, self.kept)
        return name if part is None else _joined(part, self._student[part.stack].get(part.index))

    def holds(self, name):
        """Returns whether a layer belongs to a stack."""
        return part_of(name, self.kept) is not None


def _joined(part, index):
    return None if index is None else f"{part.stack}{index}{part.rest}"


def part_of(name, stacks):
    """Returns the `Part` of a name in one of `stacks`, or `None`."""
    for part in _parts(name):
        if part.stack in stacks:
            return part
    return None


def stacks_of(layers):
    """Returns the stacks of repeated blocks: `{stack: sorted indices}`, in the order of the layers.

    All layers with the same number after the same beginning of their name form a block. If a name
    has several numbers, the one after "block" counts, then "layer" and so on. Without such a word
    the first number counts by which two or more blocks have equal names.
    """
    names = [
        layer.name
        for layer in layers
        if not (type(layer).__module__.startswith("keras.") and named_by_keras(layer))
    ]
    worded = {}
    for name in names:
        part = _worded(name)
        if part is not None:
            worded.setdefault(part.stack, {}).setdefault(part.index, set()).add(part.rest)
    found = {
        stack: sorted(blocks)
        for stack, blocks in worded.items()
        if len(blocks) > 1 and stack.rstrip("_") not in names  # then the first block has no number
    }
    return found or _alike(names)


def _alike(names):
    """Returns the stacks with consecutive numbers whose blocks have layers of the same names."""
    stacks = {}
    for name in names:
        for part in _parts(name):
            stacks.setdefault(part.stack, {}).setdefault(part.index, set()).add(part.rest)
    found = {}
    for stack, blocks in stacks.items():
        indices = sorted(blocks)
        follow = indices == list(range(indices[0], indices[0] + len(indices)))
        alike = len(indices) > 1 and len({frozenset(rests) for rests in blocks.values()}) == 1
        inner = any(stack.startswith(outer) for outer in found)
        if follow and alike and not inner and stack.rstrip("_") not in names:
            found[stack] = indices
    return found


def _parts(name):
    for match in re.finditer(r"\d+", name):
        yield Part(name[: match.start()], int(match.group()), name[match.end() :])


def _worded(name):
    parts = list(_parts(name))
    for word in WORDS:
        for part in reversed(parts):
            if part.stack.lower().rstrip("_").endswith(word):
                return part
    return None


def numbered_by_keras(layers):
    """Returns blocks with names from Keras, as in ViTDet: `{class: layers}` of those with weights.

    Another model may use these names for other blocks, so only the order identifies them.
    """
    found = collections.defaultdict(list)
    for layer in layers:
        if layer.weights and not type(layer).__module__.startswith("keras."):
            found[type(layer)].append(layer)
    return {
        kind: each
        for kind, each in found.items()
        if len(each) > 1 and all(map(named_by_keras, each))
        if not any(layer.name.endswith("_0") for layer in each)  # Keras's first name has no number
    }


def named_by_keras(layer):
    """Returns whether a layer has the name that Keras makes from its class."""
    usual = re.sub(r"_\d+$", "", layer.name).replace("_", "")
    return usual == type(layer).__name__.lower()
