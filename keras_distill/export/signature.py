"""The inputs of a built model: their specification, and random inputs of these shapes."""

from typing import Any

import keras
import numpy as np
from keras import tree

from keras_distill import _backend
from keras_distill._keras import graph


def signature_of(model: keras.Model) -> list:
    """Returns the input signature of a built model, a specification for each of its arguments.

    It has the shapes and types with which the model was built. The padding masks of a KerasHub
    task with a preprocessor are an exception. They are booleans, as the preprocessor makes them,
    and the model casts them. With `model.export(path, input_signature=signature_of(model))` the
    served signature takes the output of the preprocessor unchanged.

    Args:
        model: A built `keras.Model`.

    Returns:
        A list with a `keras.InputSpec` (or a dict or list of them) for each argument.

    Example:

    ```python
    student.export("served", input_signature=export.signature_of(student))
    ```
    """
    signature = _built_signature(model)
    if getattr(model, "preprocessor", None) is None:  # only KerasHub's tasks have one
        return signature
    return [
        {name: _made(spec, name) for name, spec in each.items()} if isinstance(each, dict) else each
        for each in signature
    ]


def _made(spec, name):
    """Returns a specification with the dtype of KerasHub's preprocessors."""
    dtype = "bool" if name.endswith("padding_mask") else spec.dtype
    return keras.InputSpec(shape=spec.shape, dtype=dtype, name=spec.name)


def _built_signature(model):
    """Returns one specification for each argument of the model, as it was built."""
    if isinstance(model, keras.Sequential):
        return [_spec(model.inputs[0])]
    if getattr(model, "inputs", None):
        several = isinstance(model.input, (list, tuple)) and len(model.input) > 1
        return [_named(model.input, _by_layer if several else _spec)]
    config = model.get_build_config() or {}
    shapes = config.get("shapes_dict") or {"x": config.get("input_shape")}

    def spec(shape, name=None):
        return keras.InputSpec(shape=(None, *shape[1:]), dtype=model.input_dtype, name=name)

    def named(argument, shape):
        if isinstance(shape, dict):
            return _named(shape, spec)
        if all(size is None or isinstance(size, int) for size in shape):  # one tensor
            return spec(shape, argument.removesuffix("_shape"))
        return tree.map_shape_structure(spec, shape)

    return [named(argument, shape) for argument, shape in shapes.items()]


def _spec(tensor, name=None):
    return keras.InputSpec(
        shape=(None, *tensor.shape[1:]), dtype=tensor.dtype, name=name or tensor.name
    )


def _by_layer(tensor):
    """Returns a specification named after its input layer, its key in a dict of inputs."""
    return _spec(tensor, graph.operation_of(tensor).name)


def _named(structure, spec):
    """Returns the specifications of a structure; a dict's entries get their keys as names."""
    if isinstance(structure, dict):
        return {key: spec(value, key) for key, value in structure.items()}
    return tree.map_structure(spec, structure)


def tensor_spec(spec):
    """Returns a specification in TensorFlow's form."""
    return _backend.tensorflow("A SavedModel").TensorSpec(spec.shape, spec.dtype, name=spec.name)


def random_inputs(model: keras.Model, count: int = 8, seed: int = 0) -> Any:
    """Returns random inputs for a built model.

    Args:
        model: a `keras.Model` with one input, or several in a dict or a functional model.
        count: the number of examples.
        seed: the seed of the random numbers: floats in [0, 1), or integers and booleans of 0 and 1.
            Strings are made-up words.

    Returns:
        An array, or a dict of arrays by input name if there are several.

    Raises:
        ValueError: if the model takes several inputs without names.

    Example:

    ```python
    export.random_inputs(student, count=2).shape  # (2, 8, 8, 3)
    ```
    """
    generator = np.random.default_rng(seed)
    signature = signature_of(model)
    specs = tree.flatten(signature)
    if not all(spec.name for spec in specs) and len(specs) > 1:
        raise ValueError(
            "A model with several inputs must take them in a dict. Received: "
            f"{model.name!r}, which takes {len(specs)} inputs without names"
        )
    arrays = [_random(spec, count, generator) for spec in specs]
    if len(arrays) == 1 and not isinstance(signature[0], dict):
        return arrays[0]
    return {spec.name: array for spec, array in zip(specs, arrays, strict=True)}


def _random(spec, count, generator):
    shape = (count, *(size or 8 for size in spec.shape[1:]))
    if spec.dtype == "string":
        words = [f"word{number} word{number + 1}" for number in range(int(np.prod(shape)))]
        return np.array(words).reshape(shape)
    if "int" in spec.dtype or spec.dtype == "bool":
        return generator.integers(0, 2, shape).astype(spec.dtype)
    return generator.random(shape).astype(spec.dtype)


def check_built(model):
    """Raises an error for a model that is not built: its weights and inputs are not known."""
    if not model.built:
        raise ValueError(
            "The model must be built before it is exported. Call it on a batch first. "
            f"Received: {model.name!r}, not built"
        )
