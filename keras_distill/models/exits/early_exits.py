"""Exits: classifiers on inner layers of a model, to train it by itself and to stop early."""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from keras_distill import taps
from keras_distill._keras import graph
from keras_distill._keras.layers import SYMBOLIC
from keras_distill.taps import recording
from keras_distill.taps.paths import steps as path_steps

FINAL = "final"


def add_exits(
    model: keras.Model,
    exits: dict[str, str],
    *,
    classes: int | None = None,
    head: Callable[[Any], Any] | None = None,
) -> keras.Model:
    """Gives a classifier shallow exits: returns a model with a dict of outputs and "final" last.

    The new model shares the layers of `model`, so training one trains the other. If a nested model
    or layer holds an exit, its inner layers become layers of the new model, so `"backbone/block_1"`
    is `"block_1"` there.

    Without a `head`, a feature map (batch, height, width, channels) gets a bottleneck of three
    convolutions with batch normalization, the mean over positions and a `Dense`. A sequence
    (batch, tokens, width) gets a `Dense` with tanh on its first token and a `Dense`. A vector gets
    one `Dense`. The layer `"<exit>_feature"` is the input of the last `Dense`, and as wide as the
    input of the model's own last layer. The heads have the activation of the model's last layer.

    Args:
        model: a functional or sequential classifier with one output, such as a KerasHub
            classifier (which then takes preprocessed inputs).
        exits: `{name of the exit: path of a layer}` (see `taps`), shallowest first.
        classes: the number of classes. Defaults to the width of the model's output.
        head: a function from a symbolic feature to an exit's output. Defaults to `None`: as above.

    Returns:
        A functional `keras.Model` with the outputs `{exit: ..., "final": ...}`.

    Raises:
        ValueError: if the model is subclassed or has several outputs, the name of an exit is taken,
            a path names no layer, or the default head does not fit a feature.

    Example:

    ```python
    net = models.add_exits(student, {"exit_1": "block_1", "exit_2": "block_2"})
    distiller = Distiller(net, terms=recipes.byot(net), alpha=0.3)
    distiller.compile("adam", loss)
    models.keep_exit(net, "exit_1").save("shallow.keras")
    ```

    Reference:
        - [Zhang et al., 2019](https://arxiv.org/abs/1905.08094)
    """
    if not exits or FINAL in exits:
        raise ValueError(
            f'`exits` must name at least one exit, and no exit may be named "{FINAL}". Received: '
            f"exits={exits}"
        )
    inputs, output, features = unrolled(model, exits.values())
    if keras.tree.is_nested(output):
        raise ValueError(f"`{model.name}` must have one output. Received: {output}")
    outputs = {}
    for name, path in exits.items():
        outputs[name] = (head or _Head(name, output, classes))(features[path])
    try:
        return keras.Model(inputs, {**outputs, FINAL: output}, name=f"{model.name}_with_exits")
    except ValueError as error:
        raise ValueError(
            f"`{model.name}` cannot get these exits. {error} Give all layers and exits different "
            "names, also the layers of models inside the model."
        ) from error


def keep_exit(net: keras.Model, exit: str) -> keras.Model:
    """Returns the shallow model that ends at one exit, without the deeper layers.

    It shares its layers with `net`.

    Args:
        net: a functional model with a dict of outputs, such as one of `add_exits`.
        exit: the name of the exit.

    Returns:
        A functional `keras.Model` with the exit's output as its only one.

    Raises:
        ValueError: if there is no such exit.

    Example:

    ```python
    shallow = models.keep_exit(net, "exit_1")
    shallow.save("shallow.keras")
    ```
    """
    outputs = outputs_of(net)
    if exit not in outputs:
        raise ValueError(f"No exit `{exit}`. There are: {', '.join(outputs)}.")
    return keras.Model(graph.inputs(net), outputs[exit], name=f"{net.name}_{exit}")


def feature_path(net: keras.Model, exit: str = FINAL) -> str:
    """Returns the path of the feature that an exit's last layer receives, for hints.

    Args:
        net: a functional model with a dict of outputs, such as one of `add_exits`.
        exit: the name of the exit. Defaults to `"final"`.

    Returns:
        A path, a string.

    Raises:
        ValueError: if there is no such exit, or no layer has that feature as its output.

    Example:

    ```python
    models.feature_path(net, "exit_1")  # "exit_1_feature"
    ```
    """
    outputs = outputs_of(net)
    if exit not in outputs:
        raise ValueError(f"No exit `{exit}`. There are: {', '.join(outputs)}.")
    source = graph.operation_of(_feature(outputs[exit]))
    if not isinstance(source, layers.Layer) or isinstance(source, layers.InputLayer):
        raise ValueError(
            f"No layer of the model outputs the feature of `{exit}`. Choose a path "
            f"yourself. It comes from {getattr(source, 'name', source)}."
        )
    return source.name


def outputs_of(net):
    """Returns the outputs of a functional model by name."""
    outputs = graph.outputs(net)
    if not isinstance(outputs, dict):
        raise ValueError(
            "A model with exits must be functional and have a dict of outputs. Make it with "
            "`add_exits`. "
            f"Received: {getattr(net, 'name', net)} (of type {type(net).__name__})"
        )
    return dict(outputs)


def unrolled(model, paths):
    """Runs a functional model symbolically, with the layers around `paths` opened.

    Returns:
        Its symbolic inputs, its output in the model's structure, and `{path: symbolic feature}`.
    """
    if not graph.is_graph(model):
        raise ValueError(
            "`model` must be a functional or sequential model that is built. Received: "
            f"{getattr(model, 'name', model)} (of type {type(model).__name__})"
        )
    inputs = graph.inputs(model)
    layers_at = {path: taps.find_layer(model, path) for path in paths}
    containers = [model, *_around(model, layers_at)]
    seams = [(layer, SYMBOLIC) for layer in (*layers_at.values(), *containers)]
    keys = {id(layer) for layer in layers_at.values()}
    with graph.Opening(containers) as opening:
        with recording.recording(seams, keys, opening.functions) as calls:
            output = opening.functions[id(model)](inputs)
    features = {
        path: recording.heard(model, path, calls.get(id(layer), []))
        for path, layer in layers_at.items()
    }
    return inputs, output, features


def _around(model, paths):
    """Returns the layers that hold the layers at some paths, once each."""
    found = {}
    for path in paths:
        names = path_steps(path)
        for depth in range(1, len(names)):
            layer = taps.find_layer(model, "/".join(names[:depth]))
            found[id(layer)] = layer
    return list(found.values())


def _feature(output):
    """Returns the input of the last layer with weights before an output, without dropout."""
    passed = (layers.Activation, layers.Softmax, layers.Dropout)
    while isinstance(graph.operation_of(output), passed):
        output = graph.inputs_of(output)[0]
    before = graph.inputs_of(output)[0] if graph.inputs_of(output) else output
    while isinstance(graph.operation_of(before), layers.Dropout):
        before = graph.inputs_of(before)[0]
    return before


class _Head:
    """The default head of one exit."""

    def __init__(self, name, output, classes):
        if len(output.shape) != 2:
            raise ValueError(
                "The default head needs a model with an output of shape (batch, classes). Give a "
                f"`head`. Received: {tuple(output.shape)}"
            )
        self.name = name
        self.last = graph.operation_of(output)
        self.width = _feature(output).shape[-1] or output.shape[-1]
        self.classes = classes or output.shape[-1]

    def __call__(self, feature):
        pooled = {2: self._vector, 3: self._sequence, 4: self._feature_map}
        if len(feature.shape) not in pooled:
            raise ValueError(
                f"The default head of `{self.name}` takes vectors, sequences or feature maps. Give "
                f"a `head`. Received: a feature of shape {tuple(feature.shape)}"
            )
        vector = pooled[len(feature.shape)](feature)
        activation = getattr(self.last, "activation", None)
        if isinstance(self.last, layers.Softmax):
            activation = "softmax"
        dtype = getattr(self.last, "dtype_policy", None)
        return layers.Dense(
            self.classes, activation=activation, dtype=dtype, name=f"{self.name}_output"
        )(vector)

    def _vector(self, feature):
        return layers.Identity(name=f"{self.name}_feature")(feature)

    def _sequence(self, feature):
        return layers.Dense(self.width, activation="tanh", name=f"{self.name}_feature")(
            feature[:, 0]
        )

    def _feature_map(self, feature):
        narrow = max(self.width // 4, 8)
        for step, (filters, size, stride) in enumerate(
            [(narrow, 1, 1), (narrow, 3, 2), (self.width, 1, 1)], start=1
        ):
            name = f"{self.name}_bottleneck_{step}"
            feature = layers.Conv2D(
                filters, size, strides=stride, padding="same", use_bias=False, name=name
            )(feature)
            feature = layers.BatchNormalization(name=f"{name}_norm")(feature)
            feature = layers.ReLU(name=f"{name}_relu")(feature)
        return layers.GlobalAveragePooling2D(name=f"{self.name}_feature")(feature)
