"""A teacher's targets on disk: written once, read in every epoch and every run."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import keras

from keras_distill import _files
from keras_distill._backend import tensorflow
from keras_distill._messages import say
from keras_distill.batch import Supervision
from keras_distill.data import header, records, shards
from keras_distill.data.batches import as_dataset
from keras_distill.data.keys import Keys
from keras_distill.data.live_targets import LiveTargets
from keras_distill.data.targets_on_disk import TargetsOnDisk, identity
from keras_distill.data.writing import estimate, keyed, write
from keras_distill.schedules import check

tf = tensorflow("A cache of targets")

DTYPES = ("float16", "float32", records.QUANTIZED)


def write_targets(
    teacher: Any,
    dataset: Any,
    path: str | PathLike[str],
    *,
    paths: Sequence[str] = ("output",),
    top_k: int | None = None,
    temperature: float = 1.0,
    dtype: str = "float16",
    key: Any = None,
    views: int = 1,
    augment: Callable[[Any, Any], Any] | None = None,
    shard: str = "0/1",
    fingerprints: dict[str, Any] | None = None,
    rows_per_shard: int = 10_000,
    verbose: int = 1,
) -> TargetsOnDisk | None:
    """Runs a teacher over a dataset once and writes its targets to disk.

    The call prints the bytes and the time that it will take before it writes. Repeat a call that
    was interrupted or killed, and it continues after the last complete shard. An example that
    occurs twice is saved once.

    Args:
        teacher: a Keras model, a `Teacher` or a function of the inputs. A KerasHub task reads raw
            samples, such as strings or images, by its preprocessor, as in its own `predict`.
        dataset: a finite, batched `tf.data.Dataset` of `x`, `(x, y)` or `(x, y, sample_weight)`; a
            `PyDataset` of such batches; arrays, lists of strings or pandas columns in this form, in
            batches of 32; or a function `(i, n)` that returns the data of a part, such as
            `files.shard(n, i)`.
        path: the folder to write, local or any that `tf.io.gfile` knows.
        paths: the outputs and layers to save, as terms name them. Defaults to the output.
        top_k: how many classes of an output to save, with the probability of the others, as a
            `TopK`. Defaults to `None`, which saves all logits. Inner layers are always saved whole.
        temperature: the temperature of the `TopK`. Whole logits serve any. Defaults to `1.0`.
        dtype: "float16", "float32" or, with `top_k`, "uint8", which codes ids by their gaps and a
            log-probability in a byte. Defaults to `"float16"`.
        key: what identifies an example. `None` is a hash of its inputs. Otherwise it is the name
            of an entry in a dict of inputs, which models do not see, or a function of `(x, y)`.
        views: how many random views of each example to save, made by `augment`.
        augment: a function `(example, seed)` of one example and a seed (2,), such as
            `tf.image.stateless_random_crop` takes.
        shard: "i/n" writes the i-th of n parts, counted from 0. Each process writes one part, and
            a second process for the same part is refused. From a whole dataset each part takes the
            examples of its keys, so batches differ in size. If XLA compiles the teacher, give a
            function `(i, n)` as the dataset.
        fingerprints: `{name: object}` of other objects that made the inputs, such as a tokenizer.
            Reading the cache with a different one is refused. Models, tokenizers and arrays are
            fingerprinted automatically. A function cannot be, so give a string for it under
            "teacher", "key", "augment", or a part of these such as "teacher.preprocess".
        rows_per_shard: the maximum number of examples in a file, which is what a kill can cost.
        verbose: 1 shows a progress bar, 0 shows nothing.

    Returns:
        The open `TargetsOnDisk`, or `None` if other parts are not written yet.

    Raises:
        ImportError: if TensorFlow is not installed. It reads and writes caches on every backend.
        TypeError: if `dataset` or `key` is of the wrong kind.
        ValueError: if an argument is wrong, a function has no name in `fingerprints`, the folder
            has a cache made with other settings, two inputs have one key, or a target is NaN or too
            large for `dtype`.
        RuntimeError: if another process writes this part.

    Example:

    ```python
    data.write_targets(teacher, dataset, "targets", dtype="float32")
    distiller = Distiller(student, teacher=CachedTeacher())
    distiller.compile("adam", loss)
    distiller.fit(data.read_targets(dataset, "targets"), epochs=2)
    ```
    """
    part, parts = _part(shard)
    own = (0, 1) if callable(dataset) else (part, parts)  # the part whose keys are written
    dataset = as_dataset(dataset(part, parts) if callable(dataset) else dataset)
    _check_arguments(dataset, dtype, top_k, rows_per_shard)
    temperature = float(check("temperature", temperature, low=0, strict=True))
    keys = Keys(key, views, augment)
    live = LiveTargets(teacher, paths)
    read = live.reader(dataset.element_spec)
    first = next(iter(keyed(dataset, keys, 0, read)), None)
    if first is None:
        return _write_nothing(path, part, parts, whole=own[1] == parts)
    live.decide(first[:3], top_k, temperature, dtype)
    described = header.made(live, dataset, keys, parts, fingerprints)
    header.refuse_another(path, described)
    _files.check_writable(path)
    with _files.alone(shards.in_use(path, part, parts), f"Part {part} of {parts} of {path}"):
        writer = shards.Writer(str(path), identity(described), part, parts, rows_per_shard)
        seen = shards.Seen()
        for rows in writer.resume():
            seen.add(rows["key"], rows["hash"])
        batches = dataset.cardinality().numpy() * views
        if verbose:
            say(estimate(live, first, batches, writer, own[1]))
        _files.write_json(shards.join(path, shards.HEADER), described)
        bar = keras.utils.Progbar(batches if batches > 0 else None, verbose=verbose)
        for view in range(views):
            for batch in keyed(dataset, keys, view, read):
                write(batch, live, writer, seen, own)
                bar.add(1)
        writer.finish()
    return TargetsOnDisk(path) if _is_whole(path, parts) else None


def read_targets(
    dataset: Any,
    path: str | PathLike[str],
    *,
    key: Any = None,
    augment: Callable[[Any, Any], Any] | None = None,
    teacher: Any = None,
    fingerprints: dict[str, Any] | None = None,
    seed: int = 0,
) -> Any:
    """Adds the targets that `write_targets` wrote to a dataset, for a `CachedTeacher`.

    Each target is found by its example, so you may shuffle, filter, repeat and batch the dataset
    in any way. An example that is not in the cache is an error.

    Args:
        dataset: batches of the inputs that were cached: `x`, `(x, y)` or `(x, y, sample_weight)`; a
            `PyDataset` of such batches, which keep their order; or arrays in this form, which are
            batched by 32. Raw samples stay raw.
        path: the folder of the cache.
        key: the function that gave the keys, if there was one.
        augment: the function that made the views, if there are any. Each example gets a random
            one of its views, each time.
        teacher: the teacher to which the targets must belong. Defaults to `None`, which is any.
        fingerprints: `{name: object}`. They must be the same as when the cache was written, and
            name the functions among `key`, `augment` and those of the teacher.
        seed: the seed of the choice of views. Defaults to `0`.

    Returns:
        A dataset of `(x, Supervision(labels, targets))`, with its sample weights if it has any.

    Raises:
        FileNotFoundError: if the cache or a part of it is missing.
        ValueError: if the cache is damaged, or was written with other settings.

    Example:

    ```python
    taught = data.read_targets(dataset.shuffle(10_000), "targets", teacher=teacher)
    ```
    """
    dataset = as_dataset(dataset)
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
    cache.check(_files.plain(expected))

    def with_targets(data, view=0):
        x, y, sample_weight, found, hashes = keys(data, view)
        targets = records.parse(cache.forms, _records(cache, found, hashes))
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
    """Writes a part without examples; a whole dataset must have some."""
    if whole:
        raise ValueError("The dataset is empty. Give at least one batch.")
    _files.make_folder(path)
    shards.Writer(str(path), None, part, parts, 1).finish()
    if not _is_whole(path, parts):
        return None
    if not _files.exists(shards.join(path, shards.HEADER)):
        raise ValueError("The dataset is empty in all parts. Give at least one batch.")
    return TargetsOnDisk(path)


def _is_whole(path, parts):
    names = (f"part-{part}-of-{parts}.json" for part in range(parts))
    return all(_files.exists(shards.join(path, name)) for name in names)


def _records(cache, keys, hashes):
    found = tf.numpy_function(cache.lookup, [keys, hashes], tf.string, stateful=False)
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
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "`dataset` repeats without end. Call `repeat` where you read the cache instead."
        )
    if dtype not in DTYPES or (dtype == records.QUANTIZED and top_k is None):
        raise ValueError(
            '`dtype` must be "float16" or "float32", or "uint8" with `top_k`. '
            f"Received: dtype={dtype!r}"
        )
    if rows_per_shard < 1:
        raise ValueError(f"`rows_per_shard` must be positive. Received: {rows_per_shard}")
