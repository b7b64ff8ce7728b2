"""The grammar of paths, and the layers that they name."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from keras_distill._keras.layers import sublayers
from keras_distill.taps import scores


def find_layer(model: keras.layers.Layer, path: str) -> keras.layers.Layer:
    """Returns the layer at a path.

    Args:
        model: any Keras model or layer.
        path: names (or attributes) joined by "/", from the model down. A part after "#" or ":" is
            ignored.

    Returns:
        A `keras.layers.Layer`.

    Raises:
        ValueError: if there is no such layer (the model may not be built yet), or if the path asks
            for the scores of an attention layer that cannot show them.

    Example:

    ```python
    taps.find_layer(student, "block_1").filters
    ```
    """
    layer = model
    for name in steps(path):
        below = layers_below(layer)
        attribute = getattr(layer, name, None)
        if name not in below and not isinstance(attribute, keras.layers.Layer):
            raise ValueError(_missing(layer, name, path, below))
        layer = below.get(name, attribute)
    if path.endswith(scores.SCORES):
        scores.check(layer)
    return layer


def paths(model: keras.layers.Layer) -> list[str]:
    """Returns the paths of all layers under a model or layer, from the outside in.

    Args:
        model: any Keras model or layer.

    Returns:
        A list of paths.

    Example:

    ```python
    taps.paths(student)  # ["block_1", "block_2_conv", ...]
    ```
    """
    return [path for path, _ in walk(model)]


def attention(path: str, names: Sequence[str] = ("query", "key", "value")) -> dict[str, str]:
    """Returns the paths of an attention layer's projections, as a term takes them.

    Args:
        path: the path of the attention layer.
        names: the names of the layers in it that project. Defaults to the names in
            `keras.layers.MultiHeadAttention`.

    Returns:
        A dict `{name: path}`.

    Example:

    ```python
    queries_keys_values = taps.attention("transformer_layer_0/self_attention_layer")
    Term(losses.MiniLMRelations(), student=queries_keys_values, teacher=queries_keys_values)
    ```
    """
    return {name: f"{path}/{name}" for name in names}


def is_edge(path: str) -> bool:
    """Returns whether a path names the model's own input or output.

    Args:
        path: a path, such as `"output:logits"`.

    Returns:
        A boolean.

    Example:

    ```python
    taps.is_edge("output:logits"), taps.is_edge("block_1")  # (True, False)
    ```
    """
    return path.split(":")[0] in ("output", "input")


def pick(path: str, ends: dict[str, Any], names: Sequence[str] = ()) -> Any:
    """Returns the input, output or part of it that a path such as "output:key" names.

    Args:
        path: `"output"`, `"input"` or another key of `ends`, optionally with ":" and a part's name.
            A part is the key of a dict, the position in a list, or the field of a named tuple or
            dataclass.
        ends: a dict `{name: value or structure}`.
        names: the names of a list of outputs, in their order. Each is then also the name of a
            part. Defaults to no names.

    Returns:
        The value or structure that the path names.

    Raises:
        ValueError: if there is no such part.

    Example:

    ```python
    taps.pick("output:exit_1", {"output": {"exit_1": 1.0, "final": 2.0}})  # 1.0
    ```
    """
    end = path.partition(":")[0]
    return part(path, ends[end], f"model's {end}", names if end == "output" else ())


def part(path, value, whose, names=()):
    """Returns the value that the colon of a path names; without a colon, the whole value."""
    key = path.partition(":")[2]
    if not key:
        return value
    parts = parts_of(value, names)
    if key not in parts:
        has = ", ".join(map(str, parts)) or "one tensor"
        raise ValueError(f"`{path}`: the {whose} has no `{key}`. It has: {has}.")
    return parts[key]


def parts_of(value, names=()):
    """Returns `{key: part}` for every key that a path may name; `{}` for one tensor.

    Args:
        value: the output of a model or layer.
        names: the names of the parts of a list, in their order.
    """
    if isinstance(value, dict):
        return value
    if dataclasses.is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    several = isinstance(value, (list, tuple))
    parts = {str(index): item for index, item in enumerate(value)} if several else {}
    items = list(value) if several else [value]
    parts.update(zip(getattr(value, "_fields", ()) if several else (), items))
    parts.update(zip(names, items) if len(names) == len(items) else ())
    return parts


def steps(path):
    """Returns the names of a path, from the model down."""
    return path.partition(":")[0].partition("#")[0].split("/")


def call_of(path):
    """Returns which call of its layer a path names, or `None`.

    Raises:
        ValueError: if "#" is not followed by an integer.
    """
    _, sign, number = path.partition(":")[0].partition("#")
    if not sign:
        return None
    if not number.removeprefix("-").isdecimal():
        raise ValueError(
            "`#` in a path must follow the last layer's name and precede the number of a call, as "
            f"in `attention/query#0`. Received: `{path}`"
        )
    return int(number)


def naming(path, number):
    """Returns the path with the number of a call."""
    names, colon, key = path.partition(":")
    return f"{names.partition('#')[0]}#{number}{colon}{key}"


def layers_below(layer):
    """Returns `{name: layer}` of a layer's direct sublayers; of equal names the first counts."""
    if not isinstance(layer, keras.layers.Layer):
        return {}
    return {below.name: below for below in reversed(sublayers(layer))}


def walk(layer, prefix=""):
    """Yields `(path, layer)` of all layers under a layer, from the outside in."""
    for name, below in reversed(layers_below(layer).items()):
        if not isinstance(below, keras.layers.InputLayer):
            yield prefix + name, below
            yield from walk(below, f"{prefix}{name}/")


def _missing(layer, name, path, below):
    owner = getattr(layer, "name", layer)
    if isinstance(layer, keras.layers.Layer) and not layer.built:
        return (
            f"`{owner}` has no layer `{name}` (path `{path}`). It is not built, so its layers may "
            "not exist yet. Call it on a batch first. Its layers are: "
            f"{', '.join(below) or 'none'}."
        )
    return (
        f"`{owner}` has no layer `{name}` (path `{path}`). "
        f"Its layers are: {', '.join(below) or 'none'}."
    )
