"""Looks at the first batch of `fit` without taking it from the training."""

import keras

from keras_distill import taps  # noqa: F401 (checks the backend before TensorFlow is imported)

import tensorflow as tf  # isort: skip


def look(iterator, distributed):
    """The first batch that Keras's epoch iterator will give, or `None` where it is empty.

    The iterator that is opened for it goes on as the first epoch's, and gives the batch again: a
    generator loses nothing, and a shuffle that differs from pass to pass is not advanced.
    """
    adapter = iterator.data_adapter
    if distributed or isinstance(getattr(adapter, "py_dataset", None), keras.utils.PyDataset):
        return _first_of(iterator)  # these begin each epoch anew, as they do in Keras
    opened = _Opened(iterator._distributed_dataset)
    iterator._distributed_dataset = opened
    return opened.batch


def resume(iterator, steps):
    """What a train function can read: the next `steps` batches at least."""
    return iterator.resume(steps) if isinstance(iterator, _Iterator) else iterator


class _Opened:
    """A dataset whose first iterator is open already."""

    def __init__(self, dataset):
        self.dataset = dataset
        self.iterator = iter(dataset)
        self.batch = next(self.iterator, None)
        self._first = _Iterator(self.iterator, self.batch, dataset.element_spec)

    def __iter__(self):
        first, self._first = self._first, None
        return iter(self.dataset) if first is None else first


class _Iterator:
    """An open iterator, and the batch that was taken from it."""

    def __init__(self, iterator, batch, spec):
        self.iterator, self.batch, self.spec = iterator, batch, spec

    def __iter__(self):
        return self

    def __next__(self):
        batch, self.batch = self.batch, None
        return next(self.iterator) if batch is None else batch

    def resume(self, steps):
        """The open iterator; at first, one over the next `steps` batches, of the same type."""
        if self.batch is None:
            return self.iterator
        batches = [batch for _, batch in zip(range(steps), self)]
        joined = _joined([tf.data.Dataset.from_tensors(batch) for batch in batches])
        return iter(tf.data.experimental.from_variant(joined._variant_tensor, self.spec))


def _joined(datasets):
    """All of them, one after the other."""
    if len(datasets) == 1:
        return datasets[0]
    middle = len(datasets) // 2
    return _joined(datasets[:middle]).concatenate(_joined(datasets[middle:]))


def _first_of(iterator):
    try:
        for _, _, steps in iterator:
            return next(steps)
    except StopIteration:
        pass
    return None
