"""Measures the importance of a model's units on a few batches of data."""

import contextlib
import functools
import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_distill._keras.layers import sublayers

BATCHES = 16
MEASURES = ("activation", "taylor")
# KerasHub's layers that scale by the root of the mean square, with a weight as factor.
ROOT_MEAN_SQUARE = (
    "LlamaLayerNorm", "MistralLayerNormalization", "MixtralLayerNormalization", "Phi3LayerNorm",
    "Qwen3LayerNorm", "Qwen3MoeLayerNorm", "QwenLayerNorm", "QwenMoeLayerNorm",
    "GptOssLayerNormalization", "T5LayerNorm",
)  # fmt: skip


class Importance(NamedTuple):
    """How to measure the importance of units.

    Args:
        data: batches of the model's inputs, `x` or `(x, y)`.
        measure: `"activation"`, the mean absolute output of a unit, or `"taylor"`, the sum of
            `|weight * gradient|` over its weights.
        loss: the loss for `"taylor"`, as `compile` takes it.
    """

    data: Iterable
    measure: str
    loss: Any

    def check(self):
        """Raises an error for data or a loss that cannot be used."""
        if self.measure not in MEASURES:
            raise ValueError(
                f"`measure` must be one of {', '.join(MEASURES)}. Received: measure={self.measure}"
            )
        if self.measure == "taylor" and self.loss is None:
            raise ValueError(
                '`measure="taylor"` needs gradients of a loss. Give `loss`, as `compile` takes it.'
            )

    def batches(self):
        """Returns the first batches, as `(x, y, sample weights)` of arrays."""
        found = [
            keras.tree.map_structure(_array, keras.utils.unpack_x_y_sample_weight(batch))
            for batch in itertools.islice(self.data, BATCHES)
        ]
        if not found:
            raise ValueError("`importance` must hold at least one batch. Received: none")
        return found


def _array(value):
    return None if value is None else np.asarray(value)


class Place(NamedTuple):
    """An axis of a weight whose entries are units.

    Args:
        layer: the layer that holds the weight.
        weight: the variable.
        axis: a whole number from 0.
    """

    layer: keras.layers.Layer
    weight: Any
    axis: int


def worth(model, places, importance):
    """Returns the importance of each entry of each place, as a list of vectors.

    Args:
        model: a built `keras.Model`. Its weights are not changed.
        places: a list of `Place`s.
        importance: an `Importance`.
    """
    if importance.measure == "activation":
        found = _activations(model, places, importance.batches())
    else:
        found = _products(model, places, importance)
    if not all(np.isfinite(each).all() for each in found):
        raise ValueError(
            f"The importance of the units of `{model.name}` on these batches is not finite. Give "
            "`importance` batches with examples, and a teacher with finite weights."
        )
    return found


def _activations(model, places, batches):
    """Returns the mean absolute values of kernels' inputs, and zero for other places."""
    axes = [_input_axis(place) for place in places]
    wanted = {(id(p.layer), axis): p.layer for p, axis in zip(places, axes) if axis is not None}
    sums = dict.fromkeys(wanted, 0.0)

    def note(layer, x):
        for key, value in sums.items():
            if key[0] == id(layer):
                others = tuple(i for i in range(len(x.shape)) if i != len(x.shape) + key[1])
                mean = keras.ops.mean(keras.ops.abs(keras.ops.cast(x, "float32")), axis=others)
                sums[key] = value + keras.ops.convert_to_numpy(mean)

    _listen(model, {id(layer): layer for layer in wanted.values()}.values(), note, batches)
    found = []
    for place, axis in zip(places, axes):
        value = 0.0 if axis is None else sums[id(place.layer), axis]
        found.append(np.zeros(place.weight.shape[place.axis]) + value)
    return found


def _listen(model, layers, note, batches):
    """Runs a model on batches and calls `note(layer, input)` for every call of some layers."""
    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_noted(layer, note))
        for x, *_ in batches:
            model(x, training=False)


@contextlib.contextmanager
def _noted(layer, note):
    """Calls `note` with the input of each call of a layer within the block."""
    before, call = layer.__dict__.get("call"), layer.call

    @functools.wraps(call)
    def noting(*args, **kwargs):
        note(layer, args[0] if args else next(iter(kwargs.values())))
        return call(*args, **kwargs)

    layer.__dict__["call"] = noting  # not `setattr`: Keras would track the function
    try:
        yield
    finally:
        del layer.__dict__["call"]
        if before is not None:
            layer.__dict__["call"] = before


def _input_axis(place):
    """Returns which axis of the input, from the right, an axis of a kernel reads, or `None`."""
    layer, axis, rank = place.layer, place.axis, len(place.weight.shape)
    if isinstance(layer, keras.layers.EinsumDense):
        before, kernel = layer.equation.split("->")[0].split(",")
        read = before.find(kernel[axis]) if rank == len(kernel) else -1
        return read - len(before) if read >= 0 else None
    if isinstance(layer, keras.layers.Dense):
        return -1 if rank == 2 and axis == 0 else None
    kind = type(layer).__name__
    if rank < 3 or place.weight.name == "pointwise_kernel" or "Conv" not in kind:
        return None
    reads = rank - 1 if "Transpose" in kind else rank - 2
    return -1 if axis == reads else None


class _Products(keras.optimizers.Optimizer):
    """Sums `|weight * gradient|` over all batches, and changes no weight."""

    def __init__(self):
        super().__init__(learning_rate=0.0, name="products")

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.sums = [self.add_variable_from_reference(each, name="sum") for each in variables]

    def update_step(self, gradient, variable, learning_rate):
        total = self.sums[self._get_variable_index(variable)]
        self.assign_add(total, keras.ops.abs(keras.ops.multiply(gradient, variable)))


class _Inference(keras.Model):
    """A model that runs in inference mode while its gradients are computed."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def call(self, x):
        return self.model(x, training=False)


def _products(model, places, importance):
    """Returns sums of `|weight * gradient|` over all other axes (Molchanov et al., 2019)."""
    optimizer = _Products()
    with _trainable(model):
        asked = _Inference(model)
        asked.compile(optimizer, importance.loss, run_eagerly=True)
        for x, y, sample_weight in importance.batches():
            if y is None:
                raise ValueError(
                    '`measure="taylor"` needs batches of `(x, y)`. Received: batches of `x` alone'
                )
            asked.train_on_batch(x, y, sample_weight)
        sums = {id(variable): total
                for variable, total in zip(asked.trainable_variables, optimizer.sums)}  # fmt: skip
    found = []
    for place in places:
        total = sums.get(id(place.weight))
        size, axis = place.weight.shape[place.axis], place.axis
        value = np.zeros(size) if total is None else keras.ops.convert_to_numpy(total)
        others = tuple(i for i in range(value.ndim) if value.ndim > 1 and i != axis)
        found.append(value.astype("float64").sum(axis=others) if others else value)
    return found


@contextlib.contextmanager
def _trainable(model):
    """Makes all weights trainable within the block, also frozen ones."""
    layers = [model, *sublayers(model, recursive=True)]
    before = [(layer, layer.trainable) for layer in layers]
    frozen = [weight for layer in layers for weight in layer.weights if not weight.trainable]
    model.trainable = True
    try:
        yield
    finally:
        for layer, trainable in before:
            if layer.trainable != trainable:
                layer.trainable = trainable
        for weight in frozen:
            weight.trainable = False


def gains(norms, model, importance):
    """Returns the factors of norms for which the outputs of the remaining channels keep their size.

    A norm divides by the deviation, or the root of the mean square, of all its channels. Among the
    channels that a student keeps this value differs.

    Args:
        norms: `{layer: kept channels}`, for layers that `scales` knows.
        model: the model with these layers.
        importance: an `Importance`.

    Returns:
        `{id of the layer: factor}`.
    """
    kept = {id(layer): (scales(layer), np.asarray(channels)) for layer, channels in norms}
    sums = {key: np.zeros(2) for key in kept}

    def note(layer, x):
        spread, channels = kept[id(layer)]
        x = keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")).astype("float64")
        sums[id(layer)] += [np.mean(spread(x[..., channels])), np.mean(spread(x))]

    _listen(model, [layer for layer, _ in norms], note, importance.batches())
    return {key: float(np.sqrt(part / whole)) if part > 0 and whole > 0 else 1.0
            for key, (part, whole) in sums.items()}  # fmt: skip


def scales(layer):
    """Returns the function `(..., channels)` for the square of a norm's divisor, or `None`."""
    if isinstance(layer, keras.layers.LayerNormalization):
        return _mean_square if getattr(layer, "rms_scaling", False) else _variance
    if isinstance(layer, keras.layers.RMSNormalization):
        return _mean_square
    return _mean_square if type(layer).__name__ in ROOT_MEAN_SQUARE else None


def _variance(x):
    return x.var(axis=-1)


def _mean_square(x):
    return np.square(x).mean(axis=-1)
