"""A teacher's targets on disk: written once, read in every epoch and every run."""

import json
import time

import keras
import numpy as np

from keras_distill import taps  # noqa: F401 (the check of the backend)
from keras_distill.batch import Supervision
from keras_distill.data import header, records, shards
from keras_distill.data.keys import Keys
from keras_distill.data.live_targets import LiveTargets
from keras_distill.data.targets_on_disk import TargetsOnDisk, identity
from keras_distill.schedules import check

import tensorflow as tf  # isort: skip: after the check of the backend in `taps`

DTYPES = ("float16", "float32", records.QUANTIZED)


def write_targets(teacher, dataset, path, *, paths=("output",), top_k=None, temperature=1.0,
                  dtype="float16", key=None, views=1, augment=None, shard="0/1",
                  fingerprints=None, rows_per_shard=10_000, verbose=1):  # fmt: skip
    """Runs a teacher over a dataset once and writes its targets, each known by its example.

    What it will take is said before a byte is written. An interrupted or killed call is made
    again: it goes on where the last whole shard ended. Examples that occur twice are kept once.

    Args:
        teacher: a Keras model, a `Teacher` or a function of the inputs.
        dataset: a batched `tf.data.Dataset` of `x`, `(x, y)` or `(x, y, sample_weight)`, finite;
            or a function `(i, n)` that returns the batches of a part, `files.shard(n, i)` say.
        path: the folder to write, local or any that `tf.io.gfile` knows.
        paths: what to keep, as a term names it. Defaults to the output.
        top_k: how many classes of an output to keep, with the mass of the rest, as a `TopK`.
            Defaults to `None`: all logits. Inner layers are always kept whole.
        temperature: the temperature of the `TopK`; whole logits serve any. Defaults to `1.0`.
        dtype: "float16", "float32" or, with `top_k`, "uint8": ids coded by their gaps, a byte a
            log-probability. Defaults to `"float16"`.
        key: what an example is known by: `None` for a hash of its inputs, the name of an entry in
            a dict of inputs, which models do not see, or a function of `(x, y)`.
        views: how many random views of each example to keep, made by `augment`.
        augment: a function `(example, seed)` of one example and a seed (2,), such as
            `tf.image.stateless_random_crop` takes.
        shard: "i/n" writes the i-th of n parts, one a process, counted from 0: two that write one
            part spoil it. Of a whole dataset each takes the examples whose keys are its own, so
            that batches differ in size: give a teacher that XLA compiles a function `(i, n)`.
        fingerprints: `{name: object}` of what else made the inputs: a tokenizer, preprocessing. A
            string for "teacher", "key" or "augment" stands for one whose content cannot be told.
        rows_per_shard: how many examples at most a file holds: what a kill can cost.
        verbose: 1 for a progress bar, 0 for silence.

    Returns:
        The open `TargetsOnDisk`, or `None` where other parts are not written yet.

    Raises:
        ValueError: for wrong arguments, a folder that holds another cache (with what differs), one
            key with two inputs, NaN, or values too large for `dtype`.

    Example:

    ```python
    write_targets(teacher, dataset, "targets", dtype="float32")
    distiller = Distiller(student, teacher=CachedTeacher())
    distiller.compile("adam", loss)
    distiller.fit(read_targets(dataset, "targets"), epochs=20)
    ```
    """
    part, parts = _part(shard)
    own = (0, 1) if callable(dataset) else (part, parts)  # whose keys are written
    dataset = dataset(part, parts) if callable(dataset) else dataset
    _check_arguments(dataset, dtype, top_k, rows_per_shard)
    temperature = float(check("temperature", temperature, low=0, strict=True))
    keys = Keys(key, views, augment)
    live = LiveTargets(teacher, paths)
    first = next(iter(_keyed(dataset, keys, 0)), None)
    if first is None:
        return _write_nothing(path, part, parts, whole=own[1] == parts)
    live.decide(first[:3], top_k, temperature, dtype)
    described = header.made(live, dataset, keys, parts, fingerprints)
    header.refuse_another(path, described)
    writer = shards.Writer(str(path), identity(described), part, parts, rows_per_shard)
    seen = shards.Seen()
    for rows in writer.resume():
        seen.add(rows["key"], rows["print"])
    batches = dataset.cardinality().numpy() * views
    if verbose:
        print(estimate(live, first, batches, writer, own[1]), flush=True)
    tf.io.gfile.makedirs(str(path))
    shards.write_whole(shards.join(path, shards.HEADER), json.dumps(described, indent=1).encode())
    bar = keras.utils.Progbar(batches if batches > 0 else None, verbose=verbose)
    for view in range(views):
        for batch in _keyed(dataset, keys, view):
            _write(batch, live, writer, seen, own)
            bar.add(1)
    writer.finish()
    return TargetsOnDisk(path) if _is_whole(path, parts) else None


def read_targets(dataset, path, *, key=None, augment=None, teacher=None, fingerprints=None,
                 seed=0):  # fmt: skip
    """The dataset with the targets that `write_targets` wrote, as `CachedTeacher` serves them.

    Each target is found by its example: the dataset may be shuffled, filtered, repeated and
    batched in any way. What is not in the cache is an error.

    Args:
        dataset: batches of the inputs that were cached: `x`, `(x, y)` or `(x, y, sample_weight)`.
        path: the folder of the cache.
        key: the function that gave the keys, where one did.
        augment: the function that made the views, where there are any. Each example comes in one
            of its views, chosen anew each time.
        teacher: the teacher that the targets must be from. Defaults to `None`: any.
        fingerprints: `{name: object}` that must be as they were when the cache was written.
        seed: of the choice of views. Defaults to `0`.

    Returns:
        A dataset of `(x, Supervision(labels, targets))`, with sample weights where it had them.

    Raises:
        FileNotFoundError: where the cache or a part of it is missing.
        ValueError: for a damaged cache, or one that was written for something else, with what
            differs.

    Example:

    ```python
    dataset = read_targets(images.shuffle(10_000).batch(64), "targets", teacher=teacher)
    ```
    """
    cache = path if isinstance(path, TargetsOnDisk) else TargetsOnDisk(path)
    if key is None and isinstance(cache.header["key"], str):
        key = cache.header["key"]
    keys = Keys(key, cache.header["views"] if augment is not None else 1, augment)
    if teacher is not None:
        teacher = LiveTargets(teacher, "output").teacher
        header.warn_of_versions(cache.path, cache.header)
    expected = header.expected(dataset, keys, fingerprints, teacher)
    known = cache.header["fingerprints"]
    expected["fingerprints"] = {**known, **expected["fingerprints"]}
    cache.check(header.plain(expected))

    def with_targets(data, view=0):
        x, y, sample_weight, found, prints = keys(data, view)
        targets = records.parse(cache.forms, _records(cache, found, prints))
        return keras.utils.pack_x_y_sample_weight(x, Supervision(y, targets), sample_weight)

    if keys.views == 1:
        dataset = dataset.map(lambda *data: with_targets(data), tf.data.AUTOTUNE)
    else:
        choice = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
        dataset = tf.data.Dataset.zip(dataset.map(lambda *data: (data,)), choice)
        dataset = dataset.map(
            lambda data, number: with_targets(data[0], _views(data[0], number, keys.views)),
            tf.data.AUTOTUNE,
        )
    return dataset.prefetch(2)


def _write_nothing(path, part, parts, whole):
    """Writes a part that has no examples; a whole dataset has some."""
    if whole:
        raise ValueError("The dataset is empty: there is nothing to write.")
    tf.io.gfile.makedirs(str(path))
    shards.Writer(str(path), None, part, parts, 1).finish()
    if not _is_whole(path, parts):
        return None
    if not tf.io.gfile.exists(shards.join(path, shards.HEADER)):
        raise ValueError("The dataset is empty in all parts: there is nothing to write.")
    return TargetsOnDisk(path)


def _is_whole(path, parts):
    names = (f"part-{part}-of-{parts}.json" for part in range(parts))
    return all(tf.io.gfile.exists(shards.join(path, name)) for name in names)


def estimate(live, first, batches, writer, parts):
    """What the whole will take, in words, by one timed batch."""
    started = time.time()
    live(first[:3])  # traces
    middle = time.time()
    taken = live(first[:3])
    seconds = time.time() - middle
    one = records.serialize([0], [0], _encoded(live, taken, slice(0, 1)))
    a_row = one.size + shards.BEFORE + shards.AFTER + shards.ROW.itemsize
    if batches < 0:
        return (
            f"{a_row:,} bytes an example; {seconds:.3g} s a batch; the dataset's size is unknown."
        )
    rows = batches * len(first[3])
    done = f", of which {writer.done:,} rows are there" if writer.done else ""
    took = seconds * batches / parts + (middle - started)
    return (
        f"At most {rows:,} rows of {a_row:,} bytes in {parts} part(s): {rows * a_row / 1e6:,.1f} "
        f"MB; about {took:,.0f} s{done}."
    )


def _encoded(live, taken, rows):
    """`{feature: bytes (rows, size)}` of some rows of a batch's targets."""
    taken = keras.tree.map_structure(lambda value: value[rows], taken)
    data = {}
    for path, form in live.forms.items():
        data.update(form.encode(taken[path]))
    return data


def _write(batch, live, writer, seen, own):
    """Writes the rows of one batch that are this part's and not there yet."""
    x, y, sample_weight, keys, prints = batch
    keys, prints = keys.numpy(), prints.numpy()
    part, parts = own
    rows = np.flatnonzero(keys.astype("uint64") % np.uint64(parts) == part)
    fresh = _fresh(keys[rows], prints[rows], seen)
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
        whole = records.serialize(keys[at], prints[at], {k: v[some] for k, v in data.items()})
        for key, view, record in zip(keys[at].tolist(), prints[at].tolist(), whole):
            writer.add(key, view, record.tobytes())
    seen.add(keys[new], prints[new])


def _fresh(keys, prints, seen):
    """Which rows are not written yet, each key once."""
    known, before = seen.find(keys)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    before = np.where(known, before, prints[first[inverse]])
    if (clash := before != prints).any():
        raise ValueError(
            f"The key {keys[clash.argmax()]} stands for two different inputs. Give a `key` that is "
            "one example's own; a random augmentation goes into `augment`."
        )
    return np.array(sorted(at for at in first if not known[at]), int)


def _keyed(dataset, keys, view):
    return dataset.map(lambda *data: keys(data, view), tf.data.AUTOTUNE).prefetch(2)


def _records(cache, keys, prints):
    found = tf.numpy_function(cache.lookup, [keys, prints], tf.string, stateful=False)
    return tf.ensure_shape(found, keys.shape)


def _views(data, number, views):
    size = tf.shape(tf.nest.flatten(data)[0])[:1]
    return tf.random.stateless_uniform(size, [number, 0], maxval=views, dtype=tf.int64)


def _part(shard):
    try:
        part, parts = (int(number) for number in str(shard).split("/"))
    except ValueError:
        part, parts = -1, 0
    if not 0 <= part < parts:
        raise ValueError(f'`shard` must be "i/n" with 0 <= i < n. Received: shard={shard!r}')
    return part, parts


def _check_arguments(dataset, dtype, top_k, rows_per_shard):
    if not isinstance(dataset, tf.data.Dataset):
        raise TypeError(f"`dataset` must be a batched `tf.data.Dataset`. Received: {dataset!r}")
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("`dataset` repeats without end: leave `repeat` to the reading side.")
    if dtype not in DTYPES or (dtype == records.QUANTIZED and top_k is None):
        raise ValueError(
            '`dtype` must be "float16" or "float32", or "uint8" with `top_k`. '
            f"Received: dtype={dtype!r}"
        )
    if rows_per_shard < 1:
        raise ValueError(f"`rows_per_shard` must be positive. Received: {rows_per_shard}")
