"""Makes a `tf.data.Dataset` of batches from the data that users give."""

import keras
import numpy as np

from keras_distill._backend import tensorflow
from keras_distill.batch import Supervision

SIZE = 32  # examples per batch if arrays are given, as in Keras


def as_dataset(data):
    """Returns batches of arrays, lists, pandas columns or structures of them; a dataset as it is.

    Args:
        data: a `tf.data.Dataset` of batches; a finite `PyDataset`, whose batches are read in their
            order; or `x`, `(x, y)` or `(x, y, sample_weight)` of arrays whose first axis counts the
            examples.

    Raises:
        TypeError: if the data are of another kind.
        ValueError: if the arrays differ in length.
    """
    tf = tensorflow("A cache of targets")
    if isinstance(data, tf.data.Dataset):
        return data
    if isinstance(data, keras.utils.PyDataset):
        return _of_py_dataset(data)
    if hasattr(data, "__next__") or callable(data):
        raise TypeError(
            "`dataset` must be a batched `tf.data.Dataset`, a `PyDataset`, or arrays as `x` or "
            f"`(x, y)`. Received: {data!r} (of type {type(data).__name__})"
        )
    arrays = tuple(map(_arrays, data)) if isinstance(data, tuple) else _arrays(data)
    sizes = {len(part) for part in keras.tree.flatten(arrays) if part is not None}
    if len(sizes) != 1:
        raise ValueError(
            "All arrays of `dataset` must have the same number of examples. "
            f"Received: {sorted(sizes)}"
        )
    return tf.data.Dataset.from_tensor_slices(arrays).batch(SIZE)


def _of_py_dataset(data):
    """Returns the batches of a `PyDataset`, which is told when a pass over it ends, as by Keras."""
    tf = tensorflow("A cache of targets")
    count = data.num_batches
    if not count:
        raise ValueError(
            "A `PyDataset` must have a finite number of batches, and at least one. Received: "
            f"num_batches={count} (of {type(data).__name__})"
        )

    def batch(index):
        found = data[index]
        if not isinstance(found, (list, tuple)):
            return _arrays(found)
        return tuple(_arrays(part) for part in found if part is not None)

    def passed():
        yield from map(batch, range(count))
        data.on_epoch_end()

    signature = keras.tree.map_structure(_spec, batch(0), batch(count - 1))
    dataset = tf.data.Dataset.from_generator(passed, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(count))


def _spec(one, other):
    """Returns the spec of two batches: an axis is free if it counts examples or differs."""
    if one is None:
        return None
    axes = [size if size == same else None for size, same in zip(one.shape, other.shape)]
    tf = tensorflow("A cache of targets")
    return tf.TensorSpec([None, *axes[1:]], tf.convert_to_tensor(one).dtype)


def _arrays(data):
    """Converts samples to arrays: a list of samples is one array, a list of arrays is several."""
    if isinstance(data, Supervision):
        return Supervision(_arrays(data.labels), _arrays(data.targets))
    if isinstance(data, dict):
        return {name: _arrays(part) for name, part in data.items()}
    if isinstance(data, (list, tuple)) and len(data) and np.ndim(data[0]) > 0:
        return tuple(map(_arrays, data))
    if hasattr(data, "to_numpy"):  # pandas: as in Keras, a column of numbers becomes (batch, 1)
        column = data.to_numpy()
        return column[:, None] if column.ndim == 1 and column.dtype != object else column
    return data if data is None or hasattr(data, "shape") else np.asarray(data)
