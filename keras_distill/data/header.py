"""The header of a cache: what its targets are, and what made them."""

import warnings

import keras

from keras_distill import __version__, _files
from keras_distill._backend import tensorflow
from keras_distill.data import shards
from keras_distill.data.fingerprints import fingerprints_of

tf = tensorflow("A cache of targets")

FORMAT = 1
FIELDS = {
    "format": int, "parts": int, "inputs": list, "key": (str, dict, type(None)), "views": int,
    "augment": (str, dict, list, type(None)), "fingerprints": dict, "versions": dict,
    "paths": dict,
}  # fmt: skip


def expected(dataset, keys, fingerprints, teacher=None):
    """Returns the part of a header that a dataset and its reader know.

    A string in `fingerprints` for "teacher", "key", "augment" or a part of these, such as
    "teacher.preprocess", replaces what is there, which is not read.
    """
    x = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)[0]
    shapes = [[leaf.dtype.name, list(leaf.shape[1:])] for leaf in tf.nest.flatten(x)]
    given = {name: fingerprints_of(value, place=name)
             for name, value in (fingerprints or {}).items()}  # fmt: skip
    made = dict(given)
    if teacher is not None:
        made["teacher"] = fingerprints_of(teacher, given, "teacher")
    key = {"function": fingerprints_of(keys.key, given, "key")} if callable(keys.key) else keys.key
    return {
        "inputs": shapes,
        "key": key,
        "views": keys.views,
        "augment": fingerprints_of(keys.augment, given, "augment"),
        "fingerprints": made,
    }


def made(live, dataset, keys, parts, fingerprints):
    """Returns the header of a cache that the targets of `live` will fill."""
    header = expected(dataset, keys, fingerprints, live.teacher)
    return _files.plain({
        "format": FORMAT, "parts": parts, **header, "versions": versions(),
        "paths": {path: form.config() for path, form in live.forms.items()},
    })  # fmt: skip


def versions():
    """Returns the versions of the packages that compute here."""
    return {
        "keras_distill": __version__,
        "keras": keras.version(),
        "tensorflow": tf.__version__,
    }


def warn_of_versions(path, header):
    """Warns if another Keras or TensorFlow computed the targets than the present one."""
    there, here = ({name: found.get(name) for name in ("keras", "tensorflow")}
                   for found in (header["versions"], versions()))  # fmt: skip
    if found := _files.differences(there, here):
        warnings.warn(
            f"The targets in {path} were computed with other versions of the libraries, which may "
            f"round differently ({'; '.join(found)}).",
            stacklevel=3,
        )


def refuse_another(path, header):
    """Raises an error for a folder with a cache that has another header."""
    there = _files.read_json(shards.join(path, shards.HEADER), FIELDS)
    if there is not None and (found := _files.differences(there, header)):
        raise ValueError(
            f"{path} holds a cache made with other settings ({'; '.join(found)}). Give another "
            "folder, or delete it."
        )
