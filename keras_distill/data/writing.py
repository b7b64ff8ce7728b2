"""Writes the rows of a cache, batch by batch."""

import time

import keras
import numpy as np

from keras_distill._backend import tensorflow
from keras_distill.data import records, shards

tf = tensorflow("A cache of targets")


def keyed(dataset, keys, view, read):
    """Returns batches of `(x, y, sample_weight, keys, hashes)` with the teacher's inputs as `x`.

    Args:
        dataset: batches from the user.
        keys: the `Keys` of the cache, which read `x` as it is in the dataset.
        view: the number of the view.
        read: a function from this `x` to the teacher's inputs.
    """

    def described(*data):
        x, *rest = keys(data, view)
        return (read(x), *rest)

    return dataset.map(described, tf.data.AUTOTUNE).prefetch(2)


def estimate(live, first, batches, writer, parts):
    """Prints the size and the time of the whole cache, from one timed batch."""
    started = time.time()
    live(first[:3])  # traces the function
    middle = time.time()
    taken = live(first[:3])
    seconds = time.time() - middle
    one = records.serialize([0], [0], _encoded(live, taken, slice(0, 1)))
    a_row = one.size + shards.BEFORE + shards.AFTER + shards.ROW.itemsize
    if batches < 0:
        return (
            f"{a_row:,} bytes per example, {seconds:.3g} s per batch. The size of the dataset is "
            "unknown."
        )
    rows = batches * len(first[3])
    done = f", and {writer.done:,} rows are written already" if writer.done else ""
    took = seconds * batches / parts + (middle - started)
    return (
        f"At most {rows:,} rows of {a_row:,} bytes in {parts} part(s), {rows * a_row / 1e6:,.1f} "
        f"MB in all. This takes about {took:,.0f} s{done}."
    )


def _encoded(live, taken, rows):
    """Returns `{feature: bytes (rows, size)}` of some rows of a batch's targets."""
    taken = keras.tree.map_structure(lambda value: value[rows], taken)
    data = {}
    for path, form in live.forms.items():
        data.update(form.encode(taken[path]))
    return data


def write(batch, live, writer, seen, own):
    """Writes the rows of one batch that belong to this part and are not written yet."""
    x, y, sample_weight, keys, hashes = batch
    keys, hashes = keys.numpy(), hashes.numpy()
    part, parts = own
    rows = np.flatnonzero(keys.astype("uint64") % np.uint64(parts) == part)
    fresh = _fresh(keys[rows], hashes[rows], seen)
    if not fresh.size:
        return
    inputs = (x, y, sample_weight)
    if parts > 1:
        inputs = tf.nest.map_structure(lambda t: None if t is None else tf.gather(t, rows), inputs)
    data = _encoded(live, live(inputs), fresh)
    new = rows[fresh]
    row_bytes = sum(values.shape[-1] for values in data.values())
    step = max(1, 2**24 // max(1, row_bytes))  # 16 MB at once
    for start in range(0, new.size, step):
        some = slice(start, start + step)
        at = new[some]
        whole = records.serialize(keys[at], hashes[at], {k: v[some] for k, v in data.items()})
        for key, hash, record in zip(keys[at].tolist(), hashes[at].tolist(), whole):
            writer.add(key, hash, record.tobytes())
    seen.add(keys[new], hashes[new])


def _fresh(keys, hashes, seen):
    """Returns which rows are not written yet, with each key once."""
    known, before = seen.find(keys)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    before = np.where(known, before, hashes[first[inverse]])
    if (clash := before != hashes).any():
        raise ValueError(
            f"Two different inputs have the key {keys[clash.argmax()]}. Give a `key` that "
            "differs between examples. Give a random augmentation as `augment`."
        )
    return np.array(sorted(at for at in first if not known[at]), int)
