"""The inputs that an exported model is tried on: by name, checked, and of a fixed batch size."""

import keras
import numpy as np
from keras import tree


def checked_inputs(argument, inputs, signature):
    """Inputs as a dict of arrays by input name, if they are what the model takes.

    Args:
        argument: The name of the argument, for the message.
        inputs: An array for the only input, or a dict of arrays by input name.
        signature: What `signature_of(model)` returns.

    Returns:
        A dict of arrays, in the inputs' types.

    Raises:
        ValueError: They differ from the model's inputs in name, shape or number.
    """
    specs = {spec.name: spec for spec in tree.flatten(signature)}
    if not isinstance(inputs, dict):
        inputs = dict.fromkeys(specs, inputs) if len(specs) == 1 else {"": inputs}
    if set(inputs) != set(specs):
        raise ValueError(
            f"`{argument}` must hold an array for each input of the model, {sorted(specs)}. "
            f"Received: {sorted(inputs)}"
        )
    arrays = {name: _plain(np.asarray(inputs[name])) for name in specs}
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
    if len({len(array) for array in arrays.values()}) != 1 or not min(map(len, arrays.values())):
        raise ValueError(
            f"`{argument}` must hold the same number of examples for each input, at least one. "
            f"Received: {[len(array) for array in arrays.values()]}"
        )
    kinds = {name: keras.backend.standardize_dtype(specs[name].dtype) for name in arrays}
    wide = {"bfloat16": "float32"}  # NumPy has none
    return {
        name: array if kinds[name] == "string" else array.astype(wide.get(kinds[name], kinds[name]))
        for name, array in arrays.items()
    }


def _plain(array):
    """Strings that tf.data gives as objects, as an array of bytes."""
    texts = array.dtype == object and all(isinstance(each, (bytes, str)) for each in array.flat)
    if not texts:
        return array
    return np.array(
        [each.encode() if isinstance(each, str) else each for each in array.flat]
    ).reshape(array.shape)


def arguments_of(given, signature):
    """The inputs as the model is called: an array where it takes only one, and no dict."""
    if len(given) == 1 and not isinstance(signature[0], dict):
        return next(iter(given.values()))
    return given


def check_targets(targets, given):
    """Refuses true answers that are not one for each example."""
    count = len(next(iter(given.values())))
    if targets is not None and len(targets) != count:
        raise ValueError(
            f"`targets` must hold one target for each of the {count} examples. Received: "
            f"{len(targets)}"
        )


def with_batch(signature, batch):
    """A signature with a fixed batch size; as it is where that is `None`."""
    if batch is None:
        return signature
    return tree.map_structure(
        lambda spec: keras.InputSpec(
            shape=(batch, *spec.shape[1:]), dtype=spec.dtype, name=spec.name
        ),
        signature,
    )
