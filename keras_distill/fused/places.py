"""Reads and changes single words of each token in a block: its label, or a `TopK`'s classes."""

from keras import ops

from keras_distill.fused import primitives


class Places:
    """The places of the words `ids`, (tokens, k), in the block that begins at `start`.

    Words of other blocks are placed at the block's edge, and are ignored.
    """

    def __init__(self, ids, start, size):
        self.inside = ops.logical_and(ids >= start, ids < start + size)
        self._columns = ops.clip(ids - start, 0, size - 1)

    def read(self, block):
        """Returns the block's values at these words, 0 elsewhere: (tokens, k)."""
        return ops.where(self.inside, ops.take_along_axis(block, self._columns, axis=1), 0.0)

    def add(self, block, values):
        """Returns the block with `values`, (tokens, k), added at these words."""
        return primitives.add(block, self._columns, ops.where(self.inside, values, 0.0))

    def lower(self, block, value):
        """Returns the block with the values at these words cut to at most `value`."""
        values = ops.where(self.inside, ops.cast(value, block.dtype), float("inf"))
        return primitives.lower(block, self._columns, values)
