"""Checkpoints of a training: files of arrays, each with a checksum."""

import json
import os
import re
import warnings

import numpy as np

from keras_distill import _files

NAME = re.compile(r"state-(\d{6})-(\d{9})\.npz")
ABOUT = "about"


def path_of(folder, place):
    """Returns the path of the checkpoint of a `Place`. Sorted names are in the order of places."""
    return os.path.join(folder, f"state-{place.epoch:06d}-{place.step:09d}.npz")


def listed(folder):
    """Returns the paths of the checkpoints in a folder, the latest first."""
    names = [name for name in _files.names_in(folder) if NAME.fullmatch(name)]
    return [os.path.join(folder, name) for name in reversed(names)]


def write(path, about, groups):
    """Writes a checkpoint, whole or not at all.

    Args:
        path: the path of the checkpoint.
        about: any value that JSON can hold.
        groups: `{name: list of arrays}`.
    """
    forms, content = {}, {}
    for name, values in groups.items():
        forms[name] = [[str(value.dtype), list(value.shape)] for value in values]
        for index, value in enumerate(values):  # as bytes, since a file of arrays knows no bfloat16
            content[f"{name}-{index}"] = np.frombuffer(value.tobytes(), "uint8")
    text = json.dumps({"about": about, "forms": forms}).encode()
    content[ABOUT] = np.frombuffer(text, "uint8")
    with _files.whole(path) as part, _files.opened(part, "wb") as file:
        np.savez(file, **content)


def read(path):
    """Returns `(about, groups)` that `write` got.

    Raises:
        Exception: if the file is damaged. zipfile and NumPy raise errors without a common class.
    """
    with _files.opened(path) as file, np.load(file, allow_pickle=False) as content:
        said = json.loads(content[ABOUT].tobytes())
        groups = {
            name: [
                np.frombuffer(content[f"{name}-{index}"].tobytes(), dtype).reshape(shape)
                for index, (dtype, shape) in enumerate(forms)
            ]
            for name, forms in said["forms"].items()
        }
        return said["about"], groups


def latest(folder):
    """Returns `(path, about, groups)` of the latest undamaged checkpoint, or `None` without any.

    Raises:
        ValueError: if all checkpoints are damaged.
    """
    paths = listed(folder)
    for path in paths:
        try:
            return (path, *read(path))
        except Exception as error:  # zipfile and NumPy raise errors without a common class
            warnings.warn(
                f"{path} is damaged ({error}). The checkpoint before it is used.", stacklevel=2
            )
    if paths:
        raise ValueError(
            f"All checkpoints in {folder} are damaged. Delete the folder to train from the "
            f"beginning. Received: {', '.join(os.path.basename(path) for path in paths)}"
        )
    return None


def keep(folder, count):
    """Deletes all but the latest `count` checkpoints."""
    for path in listed(folder)[count:]:
        _files.remove(path)


def remove_unfinished(folder):
    """Deletes what killed processes left of checkpoints. No other process may write there."""
    for name in _files.names_in(folder):
        if name.startswith(_files.UNFINISHED) and NAME.search(name):
            _files.remove(os.path.join(folder, name))
