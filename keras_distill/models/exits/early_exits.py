"""Exits: classifiers on the inner layers of a model, to train it by itself and to stop early."""

import contextlib

import keras
from keras import layers

from keras_distill import taps

FINAL = "final"


def add_exits(model, exits, *, classes=None, head=None):
    """Gives a classifier shallow exits: a model with a dict of outputs, the last named "final".

    The new model shares the layers of `model`: training one trains the other. A nested model or
    layer that holds an exit is opened up, so that its inner layers become layers of the new
    model: `"backbone/block_1"` is `"block_1"` there.

    Without a `head`, a feature map (batch, height, width, channels) gets a bottleneck of three
    convolutions with batch normalization, the mean over positions and a `Dense`; a sequence
    (batch, tokens, width) a `Dense` with tanh on its first token and a `Dense`; a vector one
    `Dense`. What the last `Dense` receives is the layer `"<exit>_feature"`, as wide as what the
    model's own last layer receives. The heads' activation is that of the model's last layer.

    Args:
        model: a functional or sequential classifier with one output, such as a KerasHub
            classifier (which then takes preprocessed inputs).
        exits: `{name of the exit: path of a layer}` (see `taps`), shallowest first.
        classes: the number of classes. Defaults to the width of the model's output.
        head: a function from a symbolic feature to an exit's output. Defaults to `None`: as above.

    Returns:
        A functional `keras.Model` with the outputs `{exit: ..., "final": ...}`.

    Raises:
        ValueError: for a subclassed model, several outputs, an exit's name that is taken, a path
            that names no layer, or a feature that the default head does not fit.

    Example:

    ```python
    net = models.add_exits(model, {"exit_1": "block_1", "exit_2": "block_2"})
    distiller = Distiller(net, terms=recipes.be_your_own_teacher(net), alpha=0.3)
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    models.keep_exit(net, "exit_1").save("shallow.keras")
    ```

    Reference:
        - [Zhang et al., 2019](https://arxiv.org/abs/1905.08094)
    """
    if not exits or FINAL in exits:
        raise ValueError(
            f'`exits` must name at least one exit, and none "{FINAL}". Received: exits={exits}'
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
            f"`{model.name}` cannot get these exits: {error} Layers and exits, those of an opened "
            "model included, need names of their own."
        ) from error


def keep_exit(net, exit):
    """The shallow model that ends at one exit; the layers are shared, what lies deeper is not held.

    Args:
        net: a functional model with a dict of outputs, as `add_exits` makes.
        exit: the name of the exit.

    Returns:
        A functional `keras.Model` with the exit's output as its only one.

    Raises:
        ValueError: if there is no such exit.
    """
    outputs = outputs_of(net)
    if exit not in outputs:
        raise ValueError(f"No exit `{exit}`. There are: {', '.join(outputs)}.")
    return keras.Model(net._inputs_struct, outputs[exit], name=f"{net.name}_{exit}")


def feature_path(net, exit=FINAL):
    """The path of the feature that an exit's last layer receives, for hints.

    Args:
        net: a functional model with a dict of outputs, as `add_exits` makes.
        exit: the name of the exit. Defaults to `"final"`.

    Raises:
        ValueError: if there is no such exit, or no layer gives that feature.
    """
    outputs = outputs_of(net)
    if exit not in outputs:
        raise ValueError(f"No exit `{exit}`. There are: {', '.join(outputs)}.")
    source = _operation(_feature(outputs[exit]))
    if not isinstance(source, layers.Layer) or isinstance(source, layers.InputLayer):
        raise ValueError(
            f"The feature of `{exit}` comes from no layer that could be tapped: choose a path "
            f"yourself. It comes from: {getattr(source, 'name', source)}"
        )
    return source.name


def outputs_of(net):
    """The outputs of a functional model by name."""
    outputs = getattr(net, "_outputs_struct", None)
    if not isinstance(outputs, dict):
        raise ValueError(
            "A model with exits is functional and has a dict of outputs, as `add_exits` makes it. "
            f"Received: {getattr(net, 'name', net)} (of type {type(net).__name__})"
        )
    return dict(outputs)


def unrolled(model, paths):
    """Runs a functional model symbolically, with whatever holds `paths` opened up.

    Returns:
        Its symbolic inputs, its output as the model structures it, and `{path: symbolic feature}`.
    """
    functional = getattr(model, "_functional", None) or model  # what a Sequential runs
    if not getattr(functional, "_nodes_by_depth", None):
        raise ValueError(
            "Exits need a functional or sequential model that is built. Received: "
            f"{getattr(model, 'name', model)} (of type {type(model).__name__})"
        )
    inputs, paths = functional._inputs_struct, list(paths)
    found = [model]
    for path in paths:
        steps = path.split("/")
        taps.find_layer(model, path)
        found += [taps.find_layer(model, "/".join(steps[:n])) for n in range(1, len(steps))]
    with _opened(found):
        features = taps.run(model, inputs, ["output", *paths], training=None)
    return inputs, features.pop("output"), features


@contextlib.contextmanager
def _opened(containers):
    """Meanwhile these layers are no nodes of a symbolic graph: what they call is."""
    usual, opened = layers.Layer.__call__, {id(layer) for layer in containers}

    def call(layer, *args, **kwargs):
        if id(layer) not in opened:
            return usual(layer, *args, **kwargs)
        try:
            return layer.call(*args, **kwargs)
        except (AttributeError, TypeError, NotImplementedError) as error:
            raise ValueError(
                f"`{layer.name}` (a {type(layer).__name__}) cannot be opened up: its `call` takes "
                f"no symbolic input ({error}). Put the exit behind the whole layer."
            ) from error

    layers.Layer.__call__ = call
    try:
        yield
    finally:
        layers.Layer.__call__ = usual


def _operation(tensor):
    return tensor._keras_history.operation


def _inputs(tensor):
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index].input_tensors


def _feature(output):
    """The input of the last layer with weights before an output; dropout is passed over."""
    passed = (layers.Activation, layers.Softmax, layers.Dropout)
    while isinstance(_operation(output), passed):
        output = _inputs(output)[0]
    before = _inputs(output)[0] if _inputs(output) else output
    while isinstance(_operation(before), layers.Dropout):
        before = _inputs(before)[0]
    return before


class _Head:
    """The default head of one exit."""

    def __init__(self, name, output, classes):
        if len(output.shape) != 2:
            raise ValueError(
                "The default head makes an output of shape (batch, classes), as the model's must "
                f"be. Received: {tuple(output.shape)}. Give a `head`."
            )
        self.name = name
        self.last = _operation(output)
        self.width = _feature(output).shape[-1] or output.shape[-1]
        self.classes = classes or output.shape[-1]

    def __call__(self, feature):
        pooled = {2: self._vector, 3: self._sequence, 4: self._feature_map}
        if len(feature.shape) not in pooled:
            raise ValueError(
                f"`{self.name}`: the default head takes vectors, sequences or feature maps. "
                f"Received: a feature of shape {tuple(feature.shape)}. Give a `head`."
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
