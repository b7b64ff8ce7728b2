"""Trains students from a cache of the teacher's targets instead of the live teacher."""

from keras_distill import data
from keras_distill.teachers import CachedTeacher


def prepare(teacher, dataset, path, paths):
    """Writes whole float32 targets of a dataset, unless there is a complete cache.

    An existing cache is used as it is, even with top-k or float16 targets. It must be this
    teacher's.

    Args:
        teacher: the teacher, a `keras.Model`.
        dataset: the training split.
        path: the cache's folder.
        paths: the paths that the terms read in the teacher.

    Raises:
        ValueError: if the cache is another teacher's, lacks one of the paths, or lacks the inputs.
            Random augmentation makes inputs that no cache has.
    """
    if not _is_whole(path):
        data.write_targets(teacher, dataset, path, paths=paths, dtype="float32")
    cache = data.TargetsOnDisk(path)
    next(iter(data.read_targets(dataset, cache, teacher=teacher)))  # raises for other inputs
    missing = [name for name in paths if name not in cache.forms]
    if missing:
        raise ValueError(
            f"The terms read {missing}, for which {path} has no targets. It has targets for "
            f"{', '.join(cache.forms)}. Write another cache."
        )


def from_cache(dataset, path):
    """Returns `(teacher, dataset)` for training."""
    return CachedTeacher(), data.read_targets(dataset, path)


def _is_whole(path):
    try:
        data.TargetsOnDisk(path)
    except FileNotFoundError:
        return False
    return True
