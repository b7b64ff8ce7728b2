"""An output head, hidden states times embeddings, which is computed by blocks of the vocabulary."""

from typing import Any, NamedTuple

from keras import backend, ops

from keras_distill.fused import primitives
from keras_distill.losses.softened import LOWEST

BLOCK = 2048  # words per block: with 1,024 tokens a block of logits takes 8 MB


class Head(NamedTuple):
    """The parts of logits: `logits = hidden @ embeddings^T + bias`, then capped.

    Args:
        hidden: the hidden states, (..., width), in the dtype in which the head computes.
        embeddings: one row for each word, (vocabulary, width), in the dtype of the weights. A
            tensor or a `keras.Variable`.
        bias: (vocabulary,), or `None`. It is -inf for a word that does not exist.
        soft_cap: `c` in `c * tanh(logits / c)`, or `None`.

    Example:

    ```python
    # 2 texts of 3 tokens, 50 words, vectors of 4 numbers
    fused.Head(np.random.rand(2, 3, 4), np.random.rand(50, 4)).vocabulary  # 50
    ```
    """

    hidden: Any
    embeddings: Any
    bias: Any = None
    soft_cap: float | None = None

    @property
    def vocabulary(self):
        """The number of words."""
        return self.embeddings.shape[0]

    @property
    def precision(self):
        """The dtype of logits and sums: float32, or float64 if the head computes in it."""
        dtype = backend.standardize_dtype(self.hidden.dtype)
        return dtype if dtype == "float64" else "float32"

    def flat(self):
        """Returns a head of tensors, with hidden states (tokens, width)."""
        arrays = [primitives.tensor(array) for array in self.arrays()]
        return self.having([ops.reshape(arrays[0], (-1, arrays[1].shape[1])), *arrays[1:]])

    def arrays(self):
        """Returns the arrays that may have gradients."""
        return [a for a in (self.hidden, self.embeddings, self.bias) if a is not None]

    def having(self, arrays):
        """Returns a head with other `arrays()`."""
        bias = arrays[2] if self.bias is not None else None
        return Head(arrays[0], arrays[1], bias, self.soft_cap)

    def zeros(self):
        """Returns a zero for each token, (tokens,), of `flat` hidden states."""
        return ops.zeros((ops.shape(self.hidden)[0],), self.precision)


def block_size(vocabulary, block=None):
    """Returns about `block` words: a divisor of the vocabulary if one is below twice as many."""
    block = min(block or BLOCK, vocabulary)
    return next((n for n in range(block, 2 * block) if vocabulary % n == 0), block)


def over_blocks(vocabulary, size, step, state):
    """Computes `state = step(state, index, start, size)` for every block of words."""
    whole = vocabulary // size
    if whole > 1:
        state = primitives.loop(
            whole, lambda index, state: step(state, index, index * size, size), state
        )
    else:
        state = step(state, 0, 0, size)
    rest = vocabulary - whole * size
    return step(state, whole, whole * size, rest) if rest else state


def _rows(head, start, size):
    rows = ops.slice(head.embeddings, [start, 0], [size, head.embeddings.shape[1]])
    return ops.cast(rows, head.hidden.dtype)


def logits(head, start, size):
    """Returns the logits of a block, (tokens, size), in the head's `precision`."""
    found = ops.cast(primitives.product(head.hidden, _rows(head, start, size)), head.precision)
    if head.bias is not None:
        found += ops.cast(ops.slice(head.bias, [start], [size]), head.precision)
    if head.soft_cap is not None:
        found = head.soft_cap * ops.tanh(found / head.soft_cap)
    return found if head.bias is None else ops.maximum(found, LOWEST)


def no_gradients(head, size):
    """Returns the zeros that `add_gradients` starts from, in the head's `precision`, by blocks."""
    blocks, width = -(-head.vocabulary // size), head.embeddings.shape[1]
    tokens = ops.shape(head.hidden)[0]
    shapes = [(tokens, width), (blocks, size, width)]
    shapes += [] if head.bias is None else [(blocks, size)]
    return [ops.zeros(shape, head.precision) for shape in shapes]


def add_gradients(sums, head, index, start, found, slopes):
    """Returns the sums with a block's part, from the gradient with respect to its logits.

    Args:
        sums: the sums so far, at first those of `no_gradients`.
        head: the `Head`.
        index, start: the number and the first word of the block.
        found: the logits of the block, from `logits`.
        slopes: the gradient with respect to these logits, (tokens, size).
    """
    if head.soft_cap is not None:
        slopes *= 1.0 - ops.square(found / head.soft_cap)
    low = ops.cast(slopes, head.hidden.dtype)
    hidden = ops.matmul(low, _rows(head, start, slopes.shape[1]))
    rows = ops.matmul(ops.transpose(low), head.hidden)
    added = [sums[0] + ops.cast(hidden, head.precision), _written(sums[1], index, rows)]
    return added if head.bias is None else [*added, _written(sums[2], index, ops.sum(slopes, 0))]


def _written(blocks, index, rows):
    """Returns `blocks` with one of them replaced; the last may be smaller."""
    missing = blocks.shape[1] - rows.shape[0]
    if missing:
        rows = ops.pad(rows, [[0, missing]] + [[0, 0]] * (len(blocks.shape) - 2))
    return primitives.write(blocks, index, ops.cast(rows, blocks.dtype))


def gradients(sums, head):
    """Returns the gradients of `head.arrays()`, in their dtypes."""
    whole = [sums[0]]
    for blocks in sums[1:]:
        flat = ops.reshape(blocks, (-1, *blocks.shape[2:]))
        whole.append(flat[: head.vocabulary])  # shares the memory
    return [ops.cast(one, array.dtype) for one, array in zip(whole, head.arrays(), strict=True)]
