"""Makes a `tf.data.Dataset` of batches from the data that users give."""

import keras
import numpy as np

from keras_distill._backend import tensorflow
from keras_distill.batch import Supervision

SIZE = 32  # examples per batch if arrays are given, as in Keras


def as_dataset(data):
    """Returns batches of arrays, lists, pandas columns or structures of them; a dataset as it is.

    Args:
        data: a `tf.data.Dataset` of batches; or `x`, `(x, y)` or `(x, y, sample_weight)` of arrays
            whose first axis counts the examples.

    Raises:
        TypeError: if the data are of another kind.
        ValueError: if the arrays differ in length.
    """
    tf = tensorflow("A cache of targets")
    if isinstance(data, tf.data.Dataset):
        return data
    if isinstance(data, keras.utils.PyDataset) or hasattr(data, "__next__") or callable(data):
        raise TypeError(
            "`dataset` must be a batched `tf.data.Dataset`, or arrays as `x` or `(x, y)`. "
            f"Received: {data!r} (of type {type(data).__name__})"
        )
    arrays = tuple(map(_arrays, data)) if isinstance(data, tuple) else _arrays(data)
    sizes = {len(part) for part in keras.tree.flatten(arrays) if part is not None}
    if len(sizes) != 1:
        raise ValueError(
            "All arrays of `dataset` must have the same number of examples. "
            f"Received: {sorted(sizes)}"
        )
    return tf.data.Dataset.from_tensor_slices(arrays).batch(SIZE)


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
