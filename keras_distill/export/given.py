"""The inputs on which an exported model is checked: by name, and with a fixed batch size."""

import re

import keras
import numpy as np
from keras import tree

from keras_distill.export import reload


def checked_inputs(argument, inputs, signature):
    """Returns inputs as a dict of arrays by input name, if the model takes them.

    Args:
        argument: The name of the argument, for the message.
        inputs: An array for the only input, a list of arrays in the order of the inputs, or a dict
            of arrays by input name.
        signature: The result of `signature_of(model)`.

    Returns:
        A dict of arrays, in the inputs' types.

    Raises:
        ValueError: If their names, shapes or number differ from the model's inputs.
    """
    specs = {spec.name: spec for spec in tree.flatten(signature)}
    if len(specs) > 1 and isinstance(inputs, (list, tuple)) and len(inputs) == len(specs):
        inputs = dict(zip(specs, inputs))
    if not isinstance(inputs, dict):
        inputs = dict.fromkeys(specs, inputs) if len(specs) == 1 else {"": inputs}
    if set(inputs) != set(specs):
        raise ValueError(
            f"`{argument}` must hold an array for each input of the model, {sorted(specs)}. "
            f"Received: {sorted(inputs)}"
        )
    arrays = {name: plain(_array(argument, inputs[name])) for name in specs}
    for name, array in arrays.items():
        shape = specs[name].shape
        if len(shape) != array.ndim or any(
            size not in (None, found) for size, found in zip(shape[1:], array.shape[1:])
        ):
            raise ValueError(
                f"`{argument}` must have the shape {tuple(shape)} for the input {name!r}. "
                f"Received: {array.shape}"
            )
        wanted, kinds = ("strings", "SU") if specs[name].dtype == "string" else ("numbers", "fiub")
        if array.dtype.kind not in kinds:
            raise ValueError(
                f"`{argument}` must hold {wanted} for the input {name!r}. Received: {array.dtype}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(
                f"`{argument}` must hold finite numbers for the input {name!r}. Received: NaN or "
                f"infinity in {int((~np.isfinite(array)).sum()):,} of {array.size:,} numbers"
            )
    if len({len(array) for array in arrays.values()}) != 1 or not min(map(len, arrays.values())):
        raise ValueError(
            f"`{argument}` must hold the same number of examples for each input, at least one. "
            f"Received: {[len(array) for array in arrays.values()]}"
        )
    kinds = {name: keras.backend.standardize_dtype(specs[name].dtype) for name in arrays}
    wide = {"bfloat16": "float32"}  # NumPy has no bfloat16
    return {
        name: array if kinds[name] == "string" else array.astype(wide.get(kinds[name], kinds[name]))
        for name, array in arrays.items()
    }


def plain(array):
    """Returns strings that tf.data gives as objects, as an array of bytes."""
    texts = array.dtype == object and all(isinstance(each, (bytes, str)) for each in array.flat)
    if not texts:
        return array
    return np.array(
        [each.encode() if isinstance(each, str) else each for each in array.flat]
    ).reshape(array.shape)


def arguments_of(given, signature):
    """Returns the inputs in the structure of the model's call: an array, a list or a dict."""
    if isinstance(signature[0], (dict, list, tuple)):
        return tree.map_structure(lambda spec: given[spec.name], signature[0])
    return next(iter(given.values())) if len(given) == 1 else given


def answers_to(argument, student, x):
    """Returns a student's answers, as `reload.answers` does, or says why it cannot.

    Raises:
        ValueError: If the student cannot be run on these inputs.
    """
    try:
        found = reload.answers(student, x)
    except Exception as error:  # any error of the student's layers
        lines = [line for line in str(error).splitlines() if line.strip()]
        found, said = None, re.sub(r"\x1b\[[0-9;]*m|\{\{.*?\}\}", "", " ".join(lines[:2])).strip()
    if found is not None:
        if all(np.isfinite(y).all() for y in tree.flatten(found) if y.dtype.kind == "f"):
            return found
        raise ValueError(
            f"The student's answers to `{argument}` must be finite. Export a student whose "
            f"training did not fail. Received: {student.name!r}, which answers NaN or infinity"
        )
    raise ValueError(
        f"The student cannot be run on `{argument}`. Give inputs such as it was trained on. "
        f"Received: {said[:300]}"
    )


def checked_targets(targets, given, expected):
    """Returns the true answers as an array, if there is one per example and they fit the outputs.

    One-hot rows become class ids. With several outputs nothing is measured.

    Args:
        targets: Class ids, one-hot rows or numbers, or `None`.
        given: The inputs, a dict of arrays by input name.
        expected: The student's answers.

    Raises:
        ValueError: If they do not fit.
    """
    if targets is None:
        return None
    targets, count = _array("targets", targets), len(next(iter(given.values())))
    if targets.ndim == 0 or len(targets) != count:
        raise ValueError(
            f"`targets` must hold one target for each of the {count} examples. "
            f"Received: {len(targets) if targets.ndim else targets}"
        )
    outputs = tree.flatten(expected)
    if len(outputs) != 1:
        return targets
    shape, classes = outputs[0].shape, outputs[0].shape[-1]
    if targets.shape == shape and classes > 1 and np.isin(targets, (0, 1)).all():
        targets = targets.argmax(-1) if (targets.sum(-1) == 1).all() else targets
    if classes > 1 and targets.shape == (*shape[:-1], 1):
        targets = targets[..., 0]
    if classes > 1 and targets.dtype.kind == "f" and targets.shape == shape[:-1]:
        targets = targets.astype("int64") if (targets == np.round(targets)).all() else targets
    ids = targets.dtype.kind in "iu" and targets.shape == shape[:-1] and classes > 1
    if ids and 0 <= targets.min() <= targets.max() < classes:
        return targets
    if not ids and targets.dtype.kind in "fiub" and targets.size == outputs[0].size:
        if np.isfinite(targets).all():
            return targets
    raise ValueError(
        f"`targets` must hold class ids from 0 to {classes - 1}, or finite numbers of the outputs' "
        f"shape {shape}. Received: {targets.dtype} of shape {targets.shape}"
        + (f", from {targets.min()} to {targets.max()}" if targets.dtype.kind in "fiu" else "")
    )


def _array(argument, value):
    """Converts anything to an array.

    Raises:
        ValueError: If its rows have different lengths.
    """
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(
            f"`{argument}` must be an array. Rows of different lengths need padding. "
            f"Received: {error}"
        ) from error


def with_batch(signature, batch):
    """Returns a signature with a fixed batch size, or the same one if the size is `None`."""
    if batch is None:
        return signature
    return tree.map_structure(
        lambda spec: keras.InputSpec(
            shape=(batch, *spec.shape[1:]), dtype=spec.dtype, name=spec.name
        ),
        signature,
    )
