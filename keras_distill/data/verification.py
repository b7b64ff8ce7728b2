"""Compares a cache with the live teacher."""

from collections.abc import Callable
from os import PathLike
from typing import Any

import numpy as np
from keras import ops

from keras_distill._backend import tensorflow
from keras_distill.batch import TopK
from keras_distill.data.batches import as_dataset
from keras_distill.data.live_targets import LiveTargets
from keras_distill.data.target_cache import read_targets
from keras_distill.data.targets_on_disk import TargetsOnDisk

tf = tensorflow("A cache of targets")


def verify_targets(
    teacher: Any,
    dataset: Any,
    path: str | PathLike[str],
    *,
    key: Any = None,
    augment: Callable[[Any, Any], Any] | None = None,
    fingerprints: dict[str, Any] | None = None,
    rows: int = 1000,
) -> Any:
    """Reads every record of a cache, and compares a sample with the live teacher.

    Args:
        teacher: the teacher that wrote it.
        dataset: the batches of inputs that were cached, in the form that `write_targets` took. The
            sample is spread over them.
        path: the folder of the cache.
        key: the function that gave the keys, if there was one.
        augment: the function that made the views, if there are any.
        fingerprints: as in `read_targets`.
        rows: about how many examples to compare. Defaults to `1000`.

    Returns:
        `{path: {"rows": number, "largest_error": number}}`. For a `TopK` the error is that of the
        log-probabilities, and "divergence" is the mean KL divergence from the live teacher's `k`
        classes and rest to the cached ones, at their temperature.

    Raises:
        ValueError: if the teacher is another one, or a shard is damaged. The error names it.

    Example:

    ```python
    print(data.verify_targets(teacher, dataset, "targets"))
    ```
    """
    cache, dataset = TargetsOnDisk(path), as_dataset(dataset)
    cached = read_targets(dataset, cache, key=key, augment=augment, teacher=teacher,
                          fingerprints=fingerprints)  # fmt: skip
    cache.verify()
    live = LiveTargets(teacher, cache.forms)
    read, found = live.reader(dataset.element_spec), {name: [] for name in cache.forms}
    for x, supervision, sample_weight in _sample(cached, rows):
        raw = live.raw(read(x), supervision.labels, sample_weight)
        for name, form in cache.forms.items():
            found[name].append(_compared(form, raw[name], supervision.targets[name]))
    return {name: _joined(each) for name, each in found.items()}


def _sample(dataset, rows):
    batches = dataset.cardinality().numpy()
    size = tf.shape(tf.nest.flatten(next(iter(dataset)))[0])[0].numpy()
    every = max(1, batches * size // rows)
    chosen = dataset.enumerate().filter(lambda number, data: number % every == 0)
    for _, data in chosen.take(-(-rows // size)):
        yield (*data, None) if len(data) == 2 else data


def _compared(form, raw, cached):
    """Returns `(rows, largest error, divergences)` of one path in one batch."""
    values = ops.convert_to_numpy(raw)
    if not isinstance(cached, TopK):
        same = np.equal(values, cached)  # also if infinite, where the difference is NaN
        return len(values), np.abs(np.where(same, 0, values) - np.where(same, 0, cached)).max(), []
    log_probs = ops.log_softmax(ops.cast(raw, "float32") / form.temperature)
    ids, kept, tail = (np.asarray(part) for part in cached[:3])
    exact = np.take_along_axis(ops.convert_to_numpy(log_probs), ids.astype("int64"), -1)
    error = np.abs(np.maximum(exact, -1e30) - np.maximum(kept, -1e30)).max()
    rest = ops.convert_to_numpy(form.taken(raw)[2])
    divergence = (np.exp(exact) * np.where(np.exp(exact) > 0, exact - kept, 0)).sum(-1)
    divergence += np.exp(rest) * np.where(np.exp(rest) > 0, rest - tail, 0)
    return len(values), error, divergence.ravel()


def _joined(parts):
    rows, errors, divergences = zip(*parts)
    joined = {"rows": int(sum(rows)), "largest_error": float(max(errors))}
    if len(divergences[0]):
        joined["divergence"] = float(np.concatenate(divergences).mean())
    return joined
