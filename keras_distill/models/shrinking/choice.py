"""The user's choice of the blocks that each stack keeps."""

import operator
from typing import Any, NamedTuple


class Choice(NamedTuple):
    """The arguments of `shrink` that choose blocks."""

    layers: Any = None
    every: Any = None
    depth: Any = None

    @property
    def wanted(self):
        """Whether blocks are chosen at all."""
        return any(value is not None for value in self)

    def check(self):
        """Raises an error for a choice that no teacher allows."""
        given = [name for name, value in zip(self._fields, self) if value is not None]
        if len(given) > 1:
            raise ValueError(
                "Give only one of `layers`, `every` and `depth`. "
                f"Received: {', '.join(f'{name}={getattr(self, name)}' for name in given)}"
            )
        for name in ("every", "depth"):
            value = getattr(self, name)
            if value is not None and whole(name, value) < 1:
                raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value}")

    def of(self, stack, count):
        """Returns the positions to keep in a stack of `count` blocks, ascending from 0."""
        if self.layers is not None:
            return self._listed(stack, count)
        if self.every is not None:
            return list(range(0, count, self.every))
        if self.depth is not None:
            return _evenly(self.depth, count)
        return list(range(count))

    def _listed(self, stack, count):
        listed = self.layers
        if isinstance(listed, dict):
            keys = [key for key in listed if key in stack]
            if len(keys) != 1:
                raise ValueError(
                    f"Each stack of blocks needs exactly one key in `layers` that is a part of the "
                    f"stack's name. `{stack}` matches {keys or 'none'}. Received: layers={listed}"
                )
            listed = listed[keys[0]]
        positions = [whole("layers", position) for position in listed]
        ascends = all(a < b for a, b in zip(positions, positions[1:]))
        if not positions or not ascends or positions[0] < 0 or positions[-1] >= count:
            raise ValueError(
                f"`layers` must be ascending positions in [0, {count}) of the blocks of `{stack}`. "
                f"Received: layers={list(listed)}"
            )
        return positions


def _evenly(depth, count):
    """Returns `depth` of `count` positions with the first and the last; halves are rounded up."""
    gaps = max(1, depth - 1)
    return [(2 * step * (count - 1) + gaps) // (2 * gaps) for step in range(depth)]


def whole(name, value):
    """Returns `value` as an `int`, or raises an error that names the argument."""
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"`{name}` must be whole numbers. Received: {name}={value!r}") from None


def selected(stacks, choice):
    """Returns the blocks that a choice keeps: `{stack: {index in the student: in the teacher}}`.

    Args:
        stacks: `{stack: sorted indices of its blocks}`.
        choice: a `Choice`. A stack with fewer blocks than `depth` is kept whole.

    Raises:
        ValueError: if a position does not exist, or no stack has `depth` blocks.
    """
    deepest = max(map(len, stacks.values()))
    if choice.depth is not None and choice.depth > deepest:
        raise ValueError(f"`depth` must be in [1, {deepest}]. Received: depth={choice.depth}")
    kept = {}
    for stack, indices in stacks.items():
        count = len(indices)
        whole_stack = choice.depth is not None and choice.depth >= count
        positions = range(count) if whole_stack else choice.of(stack, count)
        kept[stack] = {indices[0] + new: indices[old] for new, old in enumerate(positions)}
    return kept
