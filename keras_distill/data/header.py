"""What a cache's header says: what its targets are, and what made them."""

import json
import warnings

import keras

from keras_distill import __version__, taps  # noqa: F401 (the check of the backend)
from keras_distill.data import shards
from keras_distill.data.fingerprints import differences, fingerprints_of

import tensorflow as tf  # isort: skip: after the check of the backend in `taps`

FORMAT = 1


def expected(dataset, keys, fingerprints, teacher=None):
    """The part of a header that a dataset and its reader know.

    What `fingerprints` has for "teacher", "key" or "augment" stands for these, unlooked at.
    """
    x = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)[0]
    shapes = [[leaf.dtype.name, list(leaf.shape[1:])] for leaf in tf.nest.flatten(x)]
    given = fingerprints_of(dict(fingerprints or {}))
    if teacher is not None and "teacher" not in given:
        given["teacher"] = fingerprints_of(teacher)
    return {
        "inputs": shapes,
        "key": {"function": _told("key", keys.key, given)} if callable(keys.key) else keys.key,
        "views": keys.views,
        "augment": _told("augment", keys.augment, given),
        "fingerprints": given,
    }


def _told(name, value, given):
    return given[name] if value is not None and name in given else fingerprints_of(value)


def made(live, dataset, keys, parts, fingerprints):
    """The header of a cache that `live` targets will fill."""
    header = expected(dataset, keys, fingerprints, live.teacher)
    return plain({
        "format": FORMAT, "parts": parts, **header, "versions": versions(),
        "paths": {path: form.config() for path, form in live.forms.items()},
    })  # fmt: skip


def versions():
    """What computes here."""
    return {
        "keras_distill": __version__,
        "keras": keras.version(),
        "tensorflow": tf.__version__,
    }


def warn_of_versions(path, header):
    """Says where another Keras or TensorFlow computed the targets than would now."""
    there, here = ({name: found.get(name) for name in ("keras", "tensorflow")}
                   for found in (header["versions"], versions()))  # fmt: skip
    if found := differences(there, here):
        warnings.warn(
            f"The targets in {path} were computed by other versions, which may round otherwise: "
            f"{'; '.join(found)}.",
            stacklevel=3,
        )


def plain(header):
    """As it is read back from a file."""
    return json.loads(json.dumps(header))


def refuse_another(path, header):
    """Refuses a folder that holds a cache with another header."""
    there = shards.read_json(shards.join(path, shards.HEADER))
    if there is not None and (found := differences(there, header)):
        raise ValueError(
            f"{path} holds another cache: {'; '.join(found)}. Give another folder, or delete it."
        )
