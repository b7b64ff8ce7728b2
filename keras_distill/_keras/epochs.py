"""The batches of `fit`: takes the first batch early, goes to a later place, and reads for steps."""

import itertools
import warnings

import keras

from keras_distill import _backend
from keras_distill._keras.trainer import waits_for_data

# On JAX Keras's loop reads the logs of the last step, so an epoch must not begin at its end.
NEEDS_A_STEP = _backend.NAME == "jax"


def peek(epoch_iterator):
    """Begins the epoch as Keras's `_symbolic_build` does; returns its first batch."""
    for _, _, batches in epoch_iterator:
        return batches[0] if isinstance(batches, (list, tuple)) else next(batches, None)
    return None


def spec_of(epoch_iterator):
    """Returns the `tf.data` specification of the batches of `fit` on TensorFlow.

    Why private: Keras hands data on as an iterator, and reading it would take a batch away.
    """
    return epoch_iterator._distributed_dataset.element_spec


def is_steered(epoch_iterator):
    """Returns whether callbacks may steer the data, so no batch may be read before they are called.

    A `PyDataset` is the user's own object, and has hooks at the begin and end of an epoch.
    """
    adapter = epoch_iterator.data_adapter
    return isinstance(getattr(adapter, "py_dataset", None), keras.utils.PyDataset)


def reset_early(epoch_iterator):
    """Resets the iterator now, once, as `fit` does before the first epoch."""
    if "reset" in vars(epoch_iterator):
        return
    epoch_iterator.reset()
    reset = epoch_iterator.reset

    def already_reset():
        epoch_iterator.reset = reset

    epoch_iterator.reset = already_reset


def begin_early(epoch_iterator):
    """Begins the first epoch of `fit` now and returns its first batch; `None` if there are no data.

    `fit` resets its iterator before the first epoch. This function does so once, in its place. The
    epoch then continues with the open iterator, behind the batch that was taken. A source of any
    kind so sees the same calls as without this function, in the same order and number.
    """
    reset_early(epoch_iterator)
    usual = epoch_iterator._enumerate_iterator
    steps = usual()
    try:
        begin, end, batches = next(steps)
        first = next(batches, None)
    except StopIteration:
        return None
    opened = Opened(batches, first)

    def go_on():
        epoch_iterator._enumerate_iterator = usual
        yield begin, end, opened
        for begin_next, end_next, same in steps:
            yield begin_next, end_next, opened if same is batches else same

    epoch_iterator._enumerate_iterator = go_on
    return first


def go_to(epoch_iterator, epoch, step, seen, begins, ends):
    """Brings the data of `fit` to a later place, as if all data before it had been trained on.

    Callbacks see nothing of it. The first epoch is read whole, since it may fill a cache. On
    TensorFlow, later epochs of arrays and of `tf.data` with a known length are only begun, since
    this is what moves a shuffle on. All other data are read. On JAX and PyTorch all data are read,
    since an epoch draws its order with the first batch.

    Args:
        epoch_iterator: the epoch iterator of `fit`.
        epoch: the epoch that begins next, counted from 0.
        step: how many of its batches to leave out.
        seen: a function that is called with the first batch, if one is read here.
        begins, ends: functions that are called before the first batch that is left out, and after
            the last one.
    """
    reset_early(epoch_iterator)
    adapter = epoch_iterator.data_adapter
    known = adapter.num_batches is not None and epoch_iterator.steps_per_epoch is None
    begun = known and not is_steered(epoch_iterator) and _backend.NAME == "tensorflow"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the data ran out: training has warned of it already
        for number in range(epoch):
            reads = number == 0 or not begun
            _run_through(epoch_iterator, reads, seen if number == 0 else None)
    if step:
        seen = None if epoch else seen
        _leave_out(epoch_iterator, step, seen, begins, ends, is_steered(epoch_iterator))


def _run_through(epoch_iterator, reads, seen):
    with epoch_iterator.catch_stop_iteration():
        for begin, _, batches in epoch_iterator:
            if reads:
                batches = iter(batches)  # Keras has read the batches into a list
                shown = None if begin else seen
                if not _read(batches, epoch_iterator.steps_per_execution, shown):
                    raise StopIteration


def _leave_out(epoch_iterator, step, seen, begins, ends, waits):
    """Makes the next epoch begin after so many batches. Reads them now or, if it `waits`, then."""
    usual = epoch_iterator._enumerate_iterator

    def left():
        begins()
        for begin, end, batches in usual():
            count = min(epoch_iterator.steps_per_execution, step - begin)
            if begin >= step:
                yield begin, end, batches
            elif not _read(batches, count, None if begin else seen):
                return
            elif begin + count == step:
                ends()

    rest = left()
    begun = [] if waits else [*itertools.islice(rest, 1)]
    after = epoch_iterator._enumerate_iterator  # the epoch that was begun early holds another one

    def go_on():
        epoch_iterator._enumerate_iterator = after
        yield from begun
        yield from rest

    epoch_iterator._enumerate_iterator = go_on


def _read(iterator, count, seen):
    """Reads so many batches and shows the first one; returns how many there were."""
    number = -1
    for number, batch in zip(range(count), iterator):
        if seen is not None and number == 0:
            seen(batch)
    return number + 1


class Opened:
    """An open iterator, and the batch that was taken from it."""

    def __init__(self, iterator, batch):
        self.iterator, self.batch = iterator, batch

    def __iter__(self):
        return self

    def __next__(self):
        batch, self.batch = self.batch, None
        return next(self.iterator) if batch is None else batch


def rest_of(iterator, steps):
    """Returns the data for a train function on TensorFlow: at least the next `steps` batches.

    After an iterator is `Opened`, the first call gets its batches in an iterator of the same type,
    so that nothing is traced twice. Later calls get the open iterator itself.
    """
    if not isinstance(iterator, Opened):
        return iterator
    if iterator.batch is None:
        return iterator.iterator
    tf = _backend.tensorflow("`tf.data`")
    spec = getattr(iterator.iterator, "element_spec", None)
    batches = [batch for _, batch in zip(range(steps), iterator)]
    if not isinstance(iterator.iterator, tf.data.Iterator):
        return iter(batches)
    joined = _joined([tf.data.Dataset.from_tensors(batch) for batch in batches])
    # `_variant_tensor` and `from_variant` give the joined batches the type of the open iterator.
    return iter(tf.data.experimental.from_variant(joined._variant_tensor, spec))


def _joined(datasets):
    """Returns one dataset of all datasets, one after the other."""
    if len(datasets) == 1:
        return datasets[0]
    middle = len(datasets) // 2
    return _joined(datasets[:middle]).concatenate(_joined(datasets[middle:]))


def first_batch(model, epoch_iterator):
    """Returns the first batch of `fit` on JAX and PyTorch, where Keras may look at one itself."""
    if waits_for_data(model) or is_steered(epoch_iterator):
        return peek(epoch_iterator)
    return begin_early(epoch_iterator)
