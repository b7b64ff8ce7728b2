"""Students that are trained with the rounding of the integers that they will be exported as."""

from typing import Any

import keras
import numpy as np
from keras import layers

from keras_distill._keras import graph
from keras_distill.quantized_layers import ActivationRange, kind_of

# What hands on the numbers that it gets, or some of them: LiteRT keeps their scale.
PASSING = (
    layers.Flatten, layers.Reshape, layers.Permute, layers.Dropout, layers.SpatialDropout1D,
    layers.SpatialDropout2D, layers.MaxPooling1D, layers.MaxPooling2D, layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D, layers.ZeroPadding1D, layers.ZeroPadding2D, layers.Cropping2D,
    layers.Identity, layers.RepeatVector,
)  # fmt: skip
KERNELS = (layers.Dense, layers.Conv1D, layers.Conv2D)
FUSED = ("linear", "relu")  # activations that LiteRT computes with the layer


def quantization_aware(
    student: keras.Model, weights: int = 8, activations: int | None = 8, calibration: Any = None
) -> keras.Model:
    """The student with fake quantization where LiteRT quantizes, to be trained on.

    Train the student first, then teach this one for a few epochs at a small learning rate, with
    the same teacher. Its numbers are floats, but only those that the integers can hold, so that
    `export.write(student, ..., "litert", quantize="int8")` writes the very integers that were
    simulated (`"int4"` for `weights=4, activations=None`).

    The kernels of `Dense`, `Conv1D`, `Conv2D` and `Embedding` layers are rounded to a symmetric
    grid, with a scale for each output channel. Each batch normalization behind one of the first
    three is folded into it, with its statistics as they are. Activations are rounded to 256 steps
    of a range that follows the training data: those of the inputs, and of each layer that computes
    new numbers. A ReLU belongs to the layer before it. Other layers compute in floats, and the
    outputs stay floats: of outputs in 256 steps one in fifty would be a tie.

    Args:
        student: A functional or sequential `keras.Model`. It is left as it is.
        weights: 8 or 4, the bits of the weights. Defaults to `8`.
        activations: 8, the bits of what passes between the layers, or `None` for floats.
        calibration: Inputs for a first range of the activations, as the student takes them, such as
            the training data's first 256 examples. Defaults to `None`: the first training batch.

    Returns:
        A functional `keras.Model` of the student's name, with copies of its weights.

    Raises:
        ValueError: The student is no graph, has a layer that is called twice, or none to
            quantize; or the bits are others.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference".

    Example:

    ```python
    small = models.quantization_aware(student, calibration=images[:256])
    distiller = Distiller(small, teacher=teacher, terms=[Term(losses.KLDivergence(2.0))])
    distiller.compile(keras.optimizers.Adam(1e-4), loss)
    distiller.fit(train, epochs=3)
    export.write(small, "served", "litert", quantize="int8", inputs=images)
    ```
    """
    if weights not in (4, 8) or activations not in (8, None):
        raise ValueError(
            "`weights` must be 8 or 4, and `activations` 8 or `None`. "
            f"Received: weights={weights!r}, activations={activations!r}"
        )
    if not graph.is_graph(student):
        raise ValueError(
            "`student` must be a functional or sequential model that is built. "
            f"Received: {student.name!r}, a {type(student).__name__}"
        )
    builder = _Builder(weights, activations)
    inputs = keras.tree.map_structure(
        lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name),
        graph.inputs(student),
    )
    made = keras.Model(inputs, builder.rebuilt(student, inputs, outermost=True), name=student.name)
    if not builder.quantized:
        raise ValueError(
            "The student must have a layer that can be quantized (a Dense, Conv1D, Conv2D or "
            f"Embedding layer). Received: {student.name!r}"
        )
    for source, copy in builder.copied:
        copy.set_weights(source)
    if calibration is not None:
        for each in builder.ranges:
            each.calibrating = True
        made(calibration, training=False)
        for each in builder.ranges:
            each.calibrating = False
    return made


class _Builder:
    """Calls the student's layers anew, on symbols, with what is quantized in their place."""

    def __init__(self, weights, activations):
        self.bits, self.activations = weights, activations
        self.copied = []  # of what is quantized: what its weights become, and the new layer
        self.ranges, self._made, self.quantized = [], {}, 0

    def rebuilt(self, model, x, outermost=False):
        """The outputs of a graph on symbolic inputs."""
        known = graph.given(model, x)
        if outermost:
            known = {key: self._ranged(value, value.name) for key, value in known.items()}
        known = graph.run(graph.nodes(model), known, chosen=_Calls(self, model, outermost).chosen)
        return keras.tree.map_structure(lambda symbol: known[id(symbol)], graph.outputs(model))

    def layer(self, source, **changes):
        """The copy of a layer; the same for each of its calls."""
        if id(source) not in self._made:
            kind = kind_of(source)
            config = {**source.get_config(), **changes}
            config.update({} if kind is None else {"bits": self.bits})
            self.quantized += kind is not None
            self._made[id(source)] = (kind or type(source)).from_config(config)
        return self._made[id(source)]

    def copies(self, source, weights):
        """Has the copy of a layer get these weights, once it is built."""
        copy = self._made[id(source)]
        if not any(copy is each for _, each in self.copied):
            self.copied.append((weights, copy))

    def ranged(self, value, name):
        """A float value rounded to the range that it has; others as they are."""
        return keras.tree.map_structure(lambda each: self._ranged(each, name), value)

    def _ranged(self, value, name):
        if self.activations is None or not keras.backend.is_float_dtype(value.dtype):
            return value
        self.ranges.append(ActivationRange(name=f"{name}_range_{len(self.ranges)}"))
        return self.ranges[-1](value)


class _Calls:
    """What is called in the place of each call of one graph."""

    def __init__(self, builder, model, outermost):
        self.builder, self.outermost = builder, outermost
        self.ends = {id(each) for each in keras.tree.flatten(graph.outputs(model))}
        self.users = {}
        nodes = graph.nodes(model)
        for node in nodes:
            for symbol in node.input_tensors:
                self.users.setdefault(id(symbol), []).append(node)
        calls = [id(node.operation) for node in nodes]
        self.folded = {}  # the call of a normalization: that of the layer it is folded into
        for node in nodes:
            after = self._next(node)
            if _can_fold(node.operation, after) and calls.count(id(node.operation)) == 1:
                self.folded[id(after)] = node

    def chosen(self, node):
        """What is called for a node."""
        if id(node) in self.folded:
            return lambda x, **_: x
        if graph.runs_its_graph(node.operation):
            return lambda x, **_: self.builder.rebuilt(node.operation, x)
        return lambda *args, **kwargs: self._called(node, *args, **kwargs)

    def _called(self, node, *args, **kwargs):
        source = node.operation
        if not isinstance(source, layers.Layer):
            return self._ranged(node, source(*args, **kwargs))
        changes, activation = {}, None
        normalization = self._next(node)
        normalization = normalization if id(normalization) in self.folded else None
        if normalization is not None:
            changes["use_bias"] = True
        if kind_of(source) is not None and _activation(source) not in FUSED:
            changes["activation"], activation = "linear", source.activation
        layer = self.builder.layer(source, **changes)
        value = layer(*args, **kwargs)
        if source.weights:
            weights = source.get_weights()
            if normalization is not None:
                weights = _folded(source, normalization.operation)
            self.builder.copies(source, weights)
        if activation is not None:
            name = f"{source.name}_activation"
            if not self._is_end(node):
                value = self.builder.ranged(value, source.name)
            value = layers.Activation(activation, name=name)(value)
        return self._ranged(node, value)

    def _ranged(self, node, value):
        """The value in its range, where LiteRT gives it one of its own."""
        operation = node.operation
        if isinstance(operation, (*PASSING, layers.Embedding)):
            return value
        if self._is_end(node):
            return value
        after = self._next(node)
        after = self._next(after) if id(after) in self.folded else after
        linear = isinstance(operation, KERNELS) and _activation(operation) == "linear"
        if linear and kind_of(operation) is not None and _is_relu(after):
            return value
        return self.builder.ranged(value, operation.name)

    def _is_end(self, node):
        """Whether a call gives outputs of the student and nothing else."""
        return self.outermost and all(
            id(each) in self.ends and id(each) not in self.users for each in node.outputs
        )

    def _next(self, node):
        """The only call that takes what a call gives, or `None`."""
        if node is None or len(node.outputs) != 1 or id(node.outputs[0]) in self.ends:
            return None
        users = self.users.get(id(node.outputs[0]), [])
        return users[0] if len(users) == 1 else None


def _activation(layer):
    """The name of a layer's own activation, or `None`."""
    return getattr(getattr(layer, "activation", None), "__name__", "linear")


def _is_relu(node):
    if node is None:
        return False
    operation = node.operation
    if isinstance(operation, layers.ReLU):
        return operation.max_value in (None, 6) and not (operation.negative_slope
                                                         or operation.threshold)  # fmt: skip
    named = isinstance(operation, layers.Activation) and _activation(operation) == "relu"
    return named or type(operation).__name__ == "Relu"


def _can_fold(layer, after):
    """Whether the normalization in the next call can become a part of a layer's weights."""
    fits = isinstance(layer, KERNELS) and kind_of(layer) is not None
    if not fits or _activation(layer) != "linear" or after is None:
        return False
    last = len(after.outputs[0].shape) - 1
    normalization = after.operation
    return type(normalization) is layers.BatchNormalization and normalization.axis in (-1, last)


def _folded(layer, normalization):
    """The kernel and bias of a layer with the normalization behind it."""
    kernel, *bias = layer.get_weights()
    gamma, beta = normalization.gamma, normalization.beta
    scale = 1.0 if gamma is None else np.asarray(gamma)
    shift = 0.0 if beta is None else np.asarray(beta)
    mean, variance = (np.asarray(each) for each in (normalization.moving_mean,
                                                    normalization.moving_variance))  # fmt: skip
    scale = scale / np.sqrt(variance + normalization.epsilon)
    return [kernel * scale, ((bias[0] if bias else 0.0) - mean) * scale + shift]
