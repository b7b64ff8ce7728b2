"""An output head, hidden states times embeddings, read by blocks of the vocabulary."""

from typing import Any, NamedTuple

from keras_distill.losses.softened import LOWEST

import tensorflow as tf  # isort: skip

BLOCK = 2048  # words: with 1,024 tokens a block of logits takes 8 MB


class Head(NamedTuple):
    """What logits are made of: `logits = hidden @ embeddings^T + bias`, capped.

    Args:
        hidden: the hidden states, (..., width), in the dtype in which the head computes.
        embeddings: one row a word, (vocabulary, width), in the dtype of the weights.
        bias: (vocabulary,), or `None`. -inf where a word does not exist.
        soft_cap: `c` in `c * tanh(logits / c)`, or `None`.
    """

    hidden: Any
    embeddings: Any
    bias: Any = None
    soft_cap: float | None = None

    @property
    def vocabulary(self):
        """How many words there are."""
        return self.embeddings.shape[0]

    def flat(self):
        """The same of tensors, with hidden states (tokens, width)."""
        arrays = [tf.convert_to_tensor(array) for array in self.arrays()]
        return self.having([tf.reshape(arrays[0], (-1, arrays[1].shape[1])), *arrays[1:]])

    def arrays(self):
        """What may have gradients."""
        return [a for a in (self.hidden, self.embeddings, self.bias) if a is not None]

    def having(self, arrays):
        """The same with other `arrays()`."""
        bias = arrays[2] if self.bias is not None else None
        return Head(arrays[0], arrays[1], bias, self.soft_cap)


def block_size(vocabulary, block=None):
    """About `block` words: a divisor of the vocabulary where there is one below twice as many."""
    block = min(block or BLOCK, vocabulary)
    return next((n for n in range(block, 2 * block) if vocabulary % n == 0), block)


def over_blocks(vocabulary, size, step, state):
    """`state = step(state, start, size)` for every block; the last may be smaller."""
    whole = vocabulary // size

    def body(index, state):
        return index + 1, step(state, index * size, size)

    if whole > 1:
        state = tf.while_loop(lambda index, _: index < whole, body, (tf.constant(0), state),
                              parallel_iterations=1, maximum_iterations=whole)[1]  # fmt: skip
    else:
        state = step(state, tf.constant(0), size)
    rest = vocabulary - whole * size
    return step(state, tf.constant(whole * size), rest) if rest else state


def _rows(head, start, size):
    rows = tf.slice(head.embeddings, [start, 0], [size, head.embeddings.shape[1]])
    return tf.cast(rows, head.hidden.dtype)


def logits(head, start, size):
    """The logits of a block, (tokens, size), float32."""
    found = tf.matmul(head.hidden, _rows(head, start, size), transpose_b=True)
    found = tf.cast(found, tf.float32)
    if head.bias is not None:
        found += tf.cast(tf.slice(head.bias, [start], [size]), tf.float32)
    if head.soft_cap is not None:
        found = head.soft_cap * tf.tanh(found / head.soft_cap)
    return found if head.bias is None else tf.maximum(found, LOWEST)


def no_gradients(head, size):
    """Where `add_gradients` starts: sums in float32, the embeddings' by blocks."""
    blocks = -(-head.vocabulary // size)
    width = head.embeddings.shape[1]
    sums = [tf.zeros((tf.shape(head.hidden)[0], width)), tf.zeros((blocks, size, width))]
    return sums if head.bias is None else [*sums, tf.zeros((blocks, size))]


def add_gradients(sums, head, start, size, found, slopes):
    """The sums with a block's part, from the gradient with respect to its logits.

    Args:
        sums: as `no_gradients` made them.
        head: the `Head`.
        start, size: the block.
        found: its logits, as `logits` gave them.
        slopes: the gradient with respect to them, (tokens, size), float32.
    """
    if head.soft_cap is not None:
        slopes *= 1.0 - tf.square(found / head.soft_cap)
    low = tf.cast(slopes, head.hidden.dtype)
    hidden = tf.cast(tf.matmul(low, _rows(head, start, size)), tf.float32)
    rows = tf.cast(tf.matmul(low, head.hidden, transpose_a=True), tf.float32)
    added = [sums[0] + hidden, _written(sums[1], start, rows)]
    return added if head.bias is None else [*added, _written(sums[2], start, _sum(slopes))]


def _sum(slopes):
    return tf.reduce_sum(slopes, axis=0)


def _written(blocks, start, rows):
    """`blocks` with one block set, in place where nobody else holds them."""
    size, missing = blocks.shape[1], blocks.shape[1] - rows.shape[0]
    rows = tf.pad(rows, [[0, missing]] + [[0, 0]] * (blocks.shape.rank - 2)) if missing else rows
    return tf.tensor_scatter_nd_update(blocks, [[start // size]], rows[None])


def gradients(sums, head):
    """The gradients of `head.arrays()`, in their dtypes."""
    whole = [sums[0]]
    for blocks in sums[1:]:
        flat = tf.reshape(blocks, [-1, *blocks.shape[2:]])
        whole.append(flat[: head.vocabulary])  # shares the memory
    return [tf.cast(one, array.dtype) for one, array in zip(whole, head.arrays(), strict=True)]
