"""Checks the arguments of an export, except its inputs, before anything is written."""

import json
import math
import os

import keras

from keras_distill.export.endpoints import SIGNATURES


def check_student(student):
    """Raises an error unless the student is a Keras model.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(student, keras.Model):
        raise TypeError(f"`student` must be a `keras.Model`. Received: a {type(student).__name__}")


def check_directory(directory):
    """Raises an error if the folder's name belongs to something else.

    Raises:
        NotADirectoryError: If there is a file.
    """
    if os.path.lexists(directory) and not os.path.isdir(directory):
        raise NotADirectoryError(
            f"`directory` must be a folder, or a new name. Received a file: {os.fspath(directory)}"
        )


def check_numbers(batch, agreement):
    """Raises an error for a batch size or a share that is out of range.

    Raises:
        ValueError: If one of them is out of its range.
    """
    if batch is not None and (type(batch) is not int or batch < 1):
        raise ValueError(f"`batch` must be a positive integer or `None`. Received: batch={batch!r}")
    if not isinstance(agreement, (int, float)) or not 0 <= agreement <= 1:
        raise ValueError(f"`agreement` must be from 0 to 1. Received: agreement={agreement!r}")


def checked_labels(labels):
    """Returns the names of the classes as a list, if each fits into a line.

    Raises:
        ValueError: If they are neither strings nor integers, or one has a line break.
    """
    if labels is None:
        return None
    labels = list(labels)
    alike = any(all(type(label) is kind for label in labels) for kind in (str, int))
    if not alike or any(isinstance(each, str) and len(each.splitlines()) > 1 for each in labels):
        raise ValueError(
            "`labels` must be strings of one line each, or integers. "
            f"Received: {[label for label in labels][:20]}"
        )
    return labels


def checked_signatures(signatures, formats):
    """Returns the names of signatures as a list, or `None` for the default ones.

    Raises:
        ValueError: If one is unknown, or the formats include no SavedModel.
    """
    if signatures is None:
        return None
    names = [signatures] if isinstance(signatures, str) else list(dict.fromkeys(signatures))
    unknown = [str(name) for name in names if name not in SIGNATURES]
    if unknown:
        raise ValueError(
            f"`signatures` may name {', '.join(SIGNATURES)}. Leave `serving_default` out, since "
            f"every export has it. Received: {', '.join(unknown)}"
        )
    if "serving" not in formats:
        raise ValueError(
            "`signatures` are those of a SavedModel. Add the format `serving`, or leave them out. "
            f"Received: formats={formats}"
        )
    return names


def checked_range(image_range):
    """Returns the least and the greatest value of a pixel.

    Raises:
        ValueError: If they are not two rising numbers.
    """
    try:
        low, high = map(float, image_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            "`image_range` must hold the least and the greatest value of a pixel, as in (0, 1). "
            f"Received: image_range={image_range!r}"
        )
    return low, high


def check_provenance(provenance):
    """Raises an error for a value that JSON cannot hold.

    Raises:
        ValueError: If it is no dict, or JSON cannot hold one of its values.
    """
    try:
        fits = provenance is None or isinstance(provenance, dict)
        json.dumps(provenance, allow_nan=False)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            "`provenance` must be a dict of what JSON can hold (texts, finite numbers, lists and "
            f"dicts). Received: {provenance!r}"
        )
