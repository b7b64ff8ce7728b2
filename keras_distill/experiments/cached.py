"""How an experiment trains its students from a cache instead of the live teacher."""

from keras_distill.data import shards
from keras_distill.data.target_cache import read_targets, write_targets
from keras_distill.data.targets_on_disk import TargetsOnDisk
from keras_distill.teachers import CachedTeacher
from keras_distill.training.term import teacher_paths


def paths_of(experiment, teacher):
    """What an experiment's terms read in the teacher."""
    terms = experiment.terms
    terms = terms(experiment.student(), teacher) if callable(terms) else terms
    return ["output"] if terms is None else teacher_paths(terms).get("teacher", ["output"])


def prepare(experiment, teacher, path, paths=None):
    """Writes whole float32 targets of the training split, unless a whole cache is there.

    What is there is used as it is, top-k or float16 too; it must be this teacher's. `paths` are
    what is kept, by default what the experiment's terms read.
    """
    dataset, paths = experiment.data("train"), paths or paths_of(experiment, teacher)
    if shards.read_json(shards.join(path, shards.HEADER)) is None or not _is_whole(path):
        write_targets(teacher, dataset, path, paths=paths, dtype="float32")
    cache = TargetsOnDisk(path)
    read = read_targets(dataset, cache, teacher=teacher)  # refuses another teacher's
    next(iter(read))  # and inputs that are not there, as random augmentation makes them
    missing = [name for name in paths if name not in cache.forms]
    if missing:
        raise ValueError(
            f"{path} has no targets for {missing}, which the terms read. It has: "
            f"{', '.join(cache.forms)}. Write another cache."
        )


def from_cache(dataset, path):
    """`(teacher, dataset)` to train with."""
    return CachedTeacher(), read_targets(dataset, path)


def _is_whole(path):
    try:
        TargetsOnDisk(path)
    except FileNotFoundError:
        return False
    return True
