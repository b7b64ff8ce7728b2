"""Single words of each token in a block: its label, or the classes of a `TopK`."""

import tensorflow as tf


class Places:
    """Where the words `ids`, (tokens, k), stand in the block that begins at `start`.

    Words of other blocks stand at the block's edge and count nothing.
    """

    def __init__(self, ids, start, size):
        rows = tf.broadcast_to(tf.range(tf.shape(ids)[0])[:, None], tf.shape(ids))
        self.inside = tf.logical_and(ids >= start, ids < start + size)
        self._indices = tf.stack([rows, tf.clip_by_value(ids - start, 0, size - 1)], axis=-1)

    def read(self, block):
        """The block's values at these words, 0 elsewhere: (tokens, k)."""
        return tf.where(self.inside, tf.gather_nd(block, self._indices), 0.0)

    def add(self, block, values):
        """The block with `values`, (tokens, k), added at these words."""
        values = tf.where(self.inside, values, 0.0)
        return tf.tensor_scatter_nd_add(block, self._indices, values)

    def lower(self, block, value):
        """The block with these words at most `value`."""
        values = tf.where(self.inside, value, block.dtype.max)
        return tf.tensor_scatter_nd_min(block, self._indices, values)
