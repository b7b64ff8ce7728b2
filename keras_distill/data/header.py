"""What a cache's header says: what its targets are, and what made them."""

import json

import keras

from keras_distill import __version__, taps  # noqa: F401 (the check of the backend)
from keras_distill.data import shards
from keras_distill.data.fingerprints import differences, fingerprints_of

import tensorflow as tf  # isort: skip: after the check of the backend in `taps`

FORMAT = 1


def expected(dataset, keys, fingerprints):
    """The part of a header that a dataset and its reader know."""
    x = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)[0]
    shapes = [[leaf.dtype.name, list(leaf.shape[1:])] for leaf in tf.nest.flatten(x)]
    key = keys.key if keys.key is None or isinstance(keys.key, str) else fingerprints_of(keys.key)
    return {
        "inputs": shapes,
        "key": key if key is None or isinstance(keys.key, str) else {"function": key},
        "views": keys.views,
        "augment": fingerprints_of(keys.augment),
        "fingerprints": fingerprints_of(dict(fingerprints or {})),
    }


def made(live, dataset, keys, parts, fingerprints):
    """The header of a cache that `live` targets will fill."""
    header = expected(dataset, keys, fingerprints)
    header["fingerprints"]["teacher"] = fingerprints_of(live.teacher)
    versions = {
        "keras_distill": __version__,
        "keras": keras.version(),
        "tensorflow": tf.__version__,
    }
    return plain({
        "format": FORMAT, "parts": parts, **header, "versions": versions,
        "paths": {path: form.config() for path, form in live.forms.items()},
    })  # fmt: skip


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
