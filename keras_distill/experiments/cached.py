"""How students train from a cache of the teacher's targets instead of the live teacher."""

from keras_distill import data
from keras_distill.teachers import CachedTeacher


def prepare(teacher, dataset, path, paths):
    """Writes whole float32 targets of a dataset, unless a whole cache is there.

    A cache that is there is used as it is, top-k or float16 too; it must be this teacher's.

    Args:
        teacher: the teacher, a `keras.Model`.
        dataset: the training split.
        path: the cache's folder.
        paths: what the terms read in the teacher.

    Raises:
        ValueError: where the cache is another teacher's, the inputs are not in it, as where random
            augmentation makes them, or it lacks one of the paths.
    """
    if not _is_whole(path):
        data.write_targets(teacher, dataset, path, paths=paths, dtype="float32")
    cache = data.TargetsOnDisk(path)
    next(iter(data.read_targets(dataset, cache, teacher=teacher)))  # refuses others
    missing = [name for name in paths if name not in cache.forms]
    if missing:
        raise ValueError(
            f"The terms read {missing}, for which {path} has no targets. It has targets for "
            f"{', '.join(cache.forms)}. Write another cache."
        )


def from_cache(dataset, path):
    """Returns `(teacher, dataset)` to train with."""
    return CachedTeacher(), data.read_targets(dataset, path)


def _is_whole(path):
    try:
        data.TargetsOnDisk(path)
    except FileNotFoundError:
        return False
    return True
