"""Quantization-aware training: students that train with the rounding of their exported integers."""

from typing import Any

import keras
from keras import layers

from keras_distill._keras import graph
from keras_distill._keras import layers as keras_layers
from keras_distill._keras.adapted import copy_adapted
from keras_distill._messages import say
from keras_distill.models.quantization import folding
from keras_distill.quantized_layers import ActivationRange, QuantizedBlock, kind_of
from keras_distill.quantized_layers.rounding import FIXED, FUSED, activation_name, rounded_silu

# Layers that pass on all or some of their input numbers, so LiteRT keeps the scale.
PASSING = (
    layers.Flatten, layers.Reshape, layers.Permute, layers.Dropout, layers.SpatialDropout1D,
    layers.SpatialDropout2D, layers.MaxPooling1D, layers.MaxPooling2D, layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D, layers.ZeroPadding1D, layers.ZeroPadding2D, layers.Cropping2D,
    layers.Identity, layers.RepeatVector, layers.Embedding,
)  # fmt: skip
PASSING_OPERATIONS = ("ExpandDims", "GetItem", "Reshape", "Squeeze", "Transpose")
# Layers that compute in floats, whatever their input: a range before them would be useless.
FLOATS = (layers.LayerNormalization, layers.GroupNormalization, layers.RMSNormalization)


def quantization_aware(
    student: keras.Model, weights: int = 8, activations: int | None = 8, calibration: Any = None
) -> keras.Model:
    """Returns a copy of the student that simulates LiteRT's quantization, for further training.

    Train the student first. Then train this copy for a few epochs at a small learning rate, with
    the same teacher. Its numbers are floats, but only those that the integers can hold. So
    `export.write(student, ..., "litert", quantize="int8")` writes exactly the integers that were
    simulated (`"int4"` for `weights=4, activations=None`).

    The kernels of dense layers, of convolutions in one and two dimensions (grouped, depthwise,
    separable and transposed ones too) and of embeddings are rounded to a symmetric grid. Each
    output channel has a scale. An embedding has one scale in all, and so has a transposed
    convolution that computes in integers. Each batch normalization behind one of the first two
    kinds is folded into it, with its current statistics. The inputs and the activations of each
    layer that computes new numbers are rounded to 256 steps of a range that follows the training
    data. A ReLU belongs to the layer before it. In a layer that holds other layers, such as an
    attention or a transformer block, only the products are quantized.

    Other layers compute in floats. One printed line names those that have weights. The outputs stay
    floats, because one in fifty outputs in 256 steps would be a tie. With 4 bits, depthwise and
    transposed convolutions stay at 8, because LiteRT's quantizer has no 4-bit version of them.

    Args:
        student: A functional or sequential `keras.Model`. It is not changed.
        weights: 8 or 4, the bits of the weights. Defaults to `8`.
        activations: 8, the bits of the activations, or `None` for floats.
        calibration: Inputs of the student for a first range of the activations, such as the first
            256 training examples. Defaults to `None`, which is the first training batch.

    Returns:
        A functional `keras.Model` with the student's name and copies of its weights. The copy of a
        KerasHub task has no preprocessor, so it takes token ids or images.

    Raises:
        ValueError: if the student is not functional or sequential, calls a layer twice, or has no
            layer to quantize, or the bits are not allowed.

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
            "The student must have a layer that can be quantized (a dense layer, a convolution or "
            f"an embedding). Received: {student.name!r}"
        )
    for part, copy in builder.copied:
        if part.weights:
            copy.set_weights(part.weights)
        copy_adapted(copy, part.layer)
    if calibration is not None:
        _calibrate(made, calibration)
    if builder.floats:
        names = ", ".join(builder.floats)
        say(f"{student.name} computes these layers in floats, without rounding: {names}.")
    return made


def _calibrate(model, x):
    """Sets the first values of all ranges."""
    found = keras_layers.sublayers(model, recursive=True)
    ranges = [each for each in found if isinstance(each, ActivationRange)]
    for each in ranges:
        each.calibrating = True
    model(x, training=False)
    for each in ranges:
        each.calibrating = False


class _Builder:
    """Rebuilds the student's graph with quantized layers in place of its own."""

    def __init__(self, weights, activations):
        self.bits, self.activations = weights, activations
        self.copied = []  # pairs of a quantized layer's part and the new layer
        self.floats = []  # the names of layers whose kernels stay in floats
        self.count, self._made, self._parts, self.quantized = 0, {}, {}, 0

    def rebuilt(self, model, x, outermost=False):
        """Returns the outputs of a graph on symbolic inputs."""
        known, calls = graph.given(model, x), _Calls(self, model, outermost)
        if outermost:
            known = {
                key: value if calls.floats(key) else self.ranged(value, value.name)
                for key, value in known.items()
            }
        known = graph.run(graph.nodes(model), known, chosen=calls.chosen)
        return keras.tree.map_structure(lambda symbol: known[id(symbol)], graph.outputs(model))

    def parts(self, source):
        """Returns the `folding.parts` of a layer, the same for each of its calls."""
        if id(source) not in self._parts:
            self._parts[id(source)] = folding.parts(source)
        return self._parts[id(source)]

    def function(self, source):
        """Returns the activation of a layer, as LiteRT computes it."""
        silu = activation_name(source) == "silu" and self.activations is not None
        return rounded_silu if silu else source.activation

    def activation(self, source):
        """Returns a layer with another layer's activation, the same for each of its calls."""
        key = "activation", id(source)
        if key not in self._made:
            function, name = self.function(source), f"{source.name}_activation"
            self._made[key] = layers.Activation(function, name=name)
        return self._made[key]

    def layer(self, part, **changes):
        """Returns the copy of a part's layer with its weights, the same for each of its calls."""
        source = part.layer
        if id(source) not in self._made:
            made = self._made[id(source)] = self._copy(source, changes)
            if not isinstance(made, QuantizedBlock):  # a block has its weights already
                self.copied.append((part, made))
        return self._made[id(source)]

    def _copy(self, source, changes):
        kind = kind_of(source)
        if kind is not None:
            self.quantized += 1
            settings = kind.settings(self.bits, self.activations)
            return kind.from_config({**source.get_config(), **changes, **settings})
        copy, known = type(source).from_config({**source.get_config(), **changes}), _inside(source)
        inside = keras_layers.sublayers(source, recursive=True)
        self.floats += [f"{each.name} ({type(each).__name__})" for each in (source, *inside)
                        if each not in known and _has_kernel(each)]  # fmt: skip
        if not known:
            return copy
        self.quantized += len(known)
        copy.build_from_config(source.get_build_config())
        copy.set_weights(source.get_weights())
        block = QuantizedBlock(copy, self.bits, self.activations)
        block.build_from_config(source.get_build_config())
        return block

    def ranged(self, value, name, activation=None):
        """Rounds float values to their range; leaves others as they are."""

        def rounded(value):
            if self.activations is None or not keras.backend.is_float_dtype(value.dtype):
                return value
            self.count += 1
            fixed = FIXED.get(activation)
            return ActivationRange(fixed=fixed, name=f"{name}_range_{self.count - 1}")(value)

        return keras.tree.map_structure(rounded, value)


class _Calls:
    """Chooses what to call in place of each call of one graph."""

    def __init__(self, builder, model, outermost):
        self.builder, self.outermost = builder, outermost
        self.ends = {id(each) for each in keras.tree.flatten(graph.outputs(model))}
        self.users = {}
        nodes = graph.nodes(model)
        for node in nodes:
            for symbol in node.input_tensors:
                self.users.setdefault(id(symbol), []).append(node)
        calls = [id(node.operation) for node in nodes]
        self.folded = {}  # from a normalization's call to that of the layer that includes it
        for node in nodes:
            after = self._next(node)
            if folding.can_fold(node.operation, after) and calls.count(id(node.operation)) == 1:
                self.folded[id(after)] = node

    def chosen(self, node):
        """Returns the function to call for a node."""
        if id(node) in self.folded:
            return lambda x, **_: x
        if graph.runs_its_graph(node.operation):
            return lambda x, **_: self.builder.rebuilt(node.operation, x)
        return lambda *args, **kwargs: self._called(node, *args, **kwargs)

    def _called(self, node, *args, **kwargs):
        source = node.operation
        if not isinstance(source, layers.Layer):
            return self._ranged(node, source(*args, **kwargs))
        *before, last = self.builder.parts(source)
        for part in before:
            value = self.builder.layer(part)(*args)
            args = (self.builder.ranged(value, part.layer.name),)
        normalization = self._next(node)
        if id(normalization) in self.folded:
            last = last._replace(weights=folding.folded(last, normalization.operation))
            layer = self.builder.layer(last, use_bias=True)
            return self._ranged(node, layer(*args))
        name = activation_name(last.layer)
        if kind_of(last.layer) is None or name in FUSED:
            silu = isinstance(source, layers.Activation) and name == "silu"
            changes = {"activation": self.builder.function(source)} if silu else {}
            return self._ranged(node, self.builder.layer(last, **changes)(*args, **kwargs))
        value = self.builder.layer(last, activation="linear")(*args)
        if not self._is_end(node):
            value = self.builder.ranged(value, source.name)
        return self._ranged(node, self.builder.activation(source)(value))

    def _ranged(self, node, value):
        """Returns the value rounded to a range, if LiteRT gives it one of its own."""
        operation = node.operation
        if _passes(operation) or self._is_end(node):
            return value
        if all(self.floats(id(each)) for each in node.outputs):
            return value
        after = self._next(node)
        after = self._next(after) if id(after) in self.folded else after
        computes = folding.separable(operation) or kind_of(operation) is not None
        if computes and activation_name(operation) == "linear" and _is_relu(after):
            return value
        named = computes or isinstance(operation, layers.Activation)
        name = activation_name(operation) if named else type(operation).__name__.lower()
        return self.builder.ranged(value, operation.name, name)

    def floats(self, symbol):
        """Returns whether every user of a value computes in floats, or quantizes it itself.

        Args:
            symbol: The `id` of the symbolic tensor.
        """
        users = self.users.get(symbol, [])
        return symbol not in self.ends and bool(users) and all(map(self._in_floats, users))

    def _in_floats(self, node):
        if _passes(node.operation):
            return all(self.floats(id(each)) for each in node.outputs)
        return isinstance(node.operation, FLOATS) or bool(_inside(node.operation))

    def _is_end(self, node):
        """Returns whether a call only makes outputs of the student."""
        return self.outermost and all(
            id(each) in self.ends and id(each) not in self.users for each in node.outputs
        )

    def _next(self, node):
        """Returns the only call that uses the output of a call, or `None`."""
        if node is None or len(node.outputs) != 1 or id(node.outputs[0]) in self.ends:
            return None
        users = self.users.get(id(node.outputs[0]), [])
        return users[0] if len(users) == 1 else None


def _is_relu(node):
    if node is None:
        return False
    operation = node.operation
    if isinstance(operation, layers.ReLU):
        return operation.max_value in (None, 6) and not (operation.negative_slope
                                                         or operation.threshold)  # fmt: skip
    named = isinstance(operation, layers.Activation) and activation_name(operation) == "relu"
    return named or type(operation).__name__ == "Relu"


def _passes(operation):
    """Returns whether an operation passes on all or some of its input numbers."""
    return isinstance(operation, PASSING) or type(operation).__name__ in PASSING_OPERATIONS


def _inside(operation):
    """Returns the sublayers of a layer that can be quantized in place."""
    opened = not isinstance(operation, layers.Layer) or graph.runs_its_graph(operation)
    if opened or kind_of(operation) is not None or not operation.get_build_config():
        return []
    return [each for each in keras_layers.sublayers(operation, recursive=True) if kind_of(each)]


def _has_kernel(layer):
    """Returns whether a layer has a matrix of weights of its own, beside those of sublayers."""
    inside = keras_layers.sublayers(layer, recursive=True)
    held = {id(weight) for each in inside for weight in each.weights}
    return any(len(each.shape) > 1 and id(each) not in held for each in layer.weights)
