"""Finds the channels of a graph that belong together, and those that can be cut.

Every entry of a tensor's last axis is a unit. If the graph adds two tensors, as at the skip of a
residual block, their entries are the same units. `Flatten` repeats the units at every position.
Units that enter or leave a layer of unknown kind are not cut.
"""

import keras
import numpy as np
from keras import layers

from keras_distill._keras import graph
from keras_distill.models.shrinking.measures import Place

CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
NORMS = (layers.BatchNormalization, layers.LayerNormalization, layers.RMSNormalization)
MERGING = (layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum,
           layers.Minimum)  # fmt: skip
BY_ENTRY = (
    layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Dropout, layers.GaussianNoise,
    layers.GaussianDropout, layers.SpatialDropout1D, layers.SpatialDropout2D,
    layers.SpatialDropout3D, layers.Identity, layers.ActivityRegularization,
)  # fmt: skip
OVER_PLACES = (
    layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D, layers.AveragePooling1D,
    layers.AveragePooling2D, layers.AveragePooling3D, layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D, layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D, layers.ZeroPadding1D,
    layers.ZeroPadding2D, layers.ZeroPadding3D, layers.Cropping1D, layers.Cropping2D,
    layers.Cropping3D, layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D,
)  # fmt: skip
# Operations of a graph that add or activate tensors without a layer.
MERGES = ("Add", "Subtract", "Multiply", "Maximum", "Minimum")
FUNCTIONS = ("Relu", "Relu6", "LeakyRelu", "Elu", "Gelu", "Silu", "Sigmoid", "Tanh", "HardSwish",
             "HardSilu", "HardSigmoid", "Softplus", "Square", "Abs", "Absolute")  # fmt: skip
ACROSS = ("softmax", "log_softmax", "sparsemax", "glu")  # activations that mix the channels


class Channels:
    """The units of a graph.

    Args:
        model: a functional or sequential model.

    Attributes:
        places: `[(Place, units)]`, the unit of every entry along each axis of a weight.
        sizes: `{id of a layer: (name of the size in its config, units)}`.
        shaped: `{id of a Reshape layer: units}` of its last axis.
        groups: lists of units of which a share is kept.
    """

    def __init__(self, model):
        self._same = []  # for every unit the one that it was joined with, or itself
        self._of_tensor, self._calls = {}, {}
        self._whole = set()
        self.places, self.sizes, self.shaped = [], {}, {}
        for tensor in keras.tree.flatten(graph.inputs(model)):
            self._of_tensor[id(tensor)] = self._kept_whole(self._fresh(tensor.shape[-1]))
        for node in graph.nodes(model):
            self._follow(node)
        for tensor in keras.tree.flatten(graph.outputs(model)):
            self._kept_whole(self._of_tensor[id(tensor)])
        self.places = [(place, self.found(units)) for place, units in self.places]
        self.sizes = {key: (name, self.found(units)) for key, (name, units) in self.sizes.items()}
        self.shaped = {key: self.found(units) for key, units in self.shaped.items()}
        self.groups = self._groups()

    def found(self, units):
        """Returns the representatives of units."""
        return np.array([self._root(unit) for unit in units], int)

    def _root(self, unit):
        while self._same[unit] != unit:
            unit = self._same[unit] = self._same[self._same[unit]]
        return unit

    def _fresh(self, count):
        begin = len(self._same)
        self._same += range(begin, begin + (count or 1))
        return np.arange(begin, len(self._same))

    def _join(self, units, others):
        for one, other in zip(units, others):
            one, other = sorted((self._root(one), self._root(other)))
            self._same[other] = one

    def _kept_whole(self, units):
        self._whole.update(units)
        return units

    def _groups(self):
        """Returns the units that one layer makes, with all units that are joined to them."""
        whole = {self._root(unit) for unit in self._whole}
        group_of, groups = {}, {}
        for _, units in self.sizes.values():
            units = {*units.tolist()} - whole
            merged = set(units).union(*(groups.pop(key) for key in
                                        {group_of[unit] for unit in units if unit in group_of}))
            if merged:
                groups[min(merged)] = merged
                group_of.update(dict.fromkeys(merged, min(merged)))
        return [sorted(group) for group in groups.values()]

    def _follow(self, node):
        """Assigns units to the outputs of a call."""
        received = [self._of_tensor[id(tensor)] for tensor in node.input_tensors]
        units = self._through(node, received)
        for tensor in node.outputs:
            size = tensor.shape[-1] if len(tensor.shape) > 1 else 1
            if units is None or len(units) != size or len(node.outputs) > 1:
                for each in received:
                    self._kept_whole(each)
                self._of_tensor[id(tensor)] = self._kept_whole(self._fresh(size))
            else:
                self._of_tensor[id(tensor)] = units

    def _through(self, node, received):
        """Returns the units of a call's output, or `None` for an operation of unknown kind."""
        operation, kind = node.operation, type(node.operation)
        arrays = [each for each in keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
                  if not isinstance(each, keras.KerasTensor) and np.ndim(each) > 0]  # fmt: skip
        ranks = {len(tensor.shape) for tensor in (*node.input_tensors, *node.outputs)}
        if arrays or not received or min(ranks) < 2 and kind is not layers.Embedding:
            return None
        if kind in MERGING or _is_operation(operation, MERGES):
            return self._merged(received)
        if kind in BY_ENTRY or _is_operation(operation, FUNCTIONS):
            return received[0]
        if kind is layers.Activation:
            return None if _mixes(operation) else received[0]
        if kind is layers.Concatenate:
            return self._concatenated(operation, received, node)
        if len(received) != 1:
            return None
        if kind in OVER_PLACES:
            return received[0] if _channels_last(operation) else None
        if kind is layers.Reshape:
            return self._reshaped(operation, received[0])
        if kind is layers.Flatten:
            return self._flat(operation, node.input_tensors[0], received[0])
        return self._weighted(operation, kind, received[0])

    def _merged(self, received):
        longest = max(received, key=len)
        for units in received:
            if len(units) == len(longest):
                self._join(longest, units)
        return longest  # a single channel is added to all, and is never cut

    def _concatenated(self, layer, received, node):
        if layer.axis in (-1, len(node.input_tensors[0].shape) - 1):
            return np.concatenate(received)
        return self._merged(received)

    def _reshaped(self, layer, units):
        """Returns the units after a reshape that moves positions only."""
        if layer.target_shape[-1] != len(units):
            return None
        self.shaped[id(layer)] = units
        return units

    def _flat(self, layer, tensor, units):
        places = tensor.shape[1:-1]
        if None in places or not _channels_last(layer):
            return None
        return np.tile(units, int(np.prod(places)))

    def _weighted(self, layer, kind, units):
        """Returns the units of the output of a layer with weights."""
        if kind is layers.Dense:
            return self._made(layer, "units", {"kernel": {0: units}}, {"kernel": 1, "bias": 0})
        if kind in NORMS:
            return self._normed(layer, units)
        if kind is layers.Embedding:
            return self._made(layer, "output_dim", {}, {"embeddings": 1})
        known = (*CONVOLUTIONS, *TRANSPOSED, *SEPARABLE, *DEPTHWISE)
        if kind not in known or not _channels_last(layer):
            return None
        if kind in CONVOLUTIONS and layer.groups != 1 or kind in DEPTHWISE and _mixes(layer):
            return None
        if kind in DEPTHWISE:
            out = np.repeat(units, layer.depth_multiplier)
            return self._written(layer, {"kernel": {-2: units}, "bias": {0: out}}, out)
        if kind in SEPARABLE:
            inner = np.repeat(units, layer.depth_multiplier)
            read = {"depthwise_kernel": {-2: units}, "pointwise_kernel": {-2: inner}}
            return self._made(layer, "filters", read, {"pointwise_kernel": -1, "bias": 0})
        if kind in TRANSPOSED:
            return self._made(layer, "filters", {"kernel": {-1: units}}, {"kernel": -2, "bias": 0})
        return self._made(layer, "filters", {"kernel": {-2: units}}, {"kernel": -1, "bias": 0})

    def _normed(self, layer, units):
        axes = np.ravel(layer.axis)
        if len(axes) != 1 or axes[0] not in (-1,) and not self._is_last(layer, axes[0]):
            return None
        return self._written(layer, {weight.name: {0: units} for weight in layer.weights}, units)

    def _is_last(self, layer, axis):
        return layer.input.shape is not None and axis == len(layer.input.shape) - 1

    def _made(self, layer, size, read, written):
        """Returns the new units that a layer makes, the same at every call."""
        if id(layer) in self.sizes:
            out = self.sizes[id(layer)][1]
        else:
            out = self._fresh(layer.get_config()[size])
            self.sizes[id(layer)] = size, out
            if not isinstance(layer, layers.Embedding) and _mixes(layer):
                self._kept_whole(out)
        axes = {name: dict(each) for name, each in read.items()}
        for name, axis in written.items():
            axes.setdefault(name, {})[axis] = out
        return self._written(layer, axes, out)

    def _written(self, layer, axes, out):
        """Records the units along the axes of a layer's weights; a later call joins them."""
        before = self._calls.get(id(layer))
        for weight in layer.weights:
            for axis, units in axes.get(weight.name, {}).items():
                axis %= len(weight.shape)
                if before is None:
                    self.places.append((Place(layer, weight, axis), units))
                else:
                    self._join(before.get(weight.name, {})[axis], units)
        if before is None:
            self._calls[id(layer)] = {
                weight.name: {axis % len(weight.shape): units
                              for axis, units in axes.get(weight.name, {}).items()}
                for weight in layer.weights
            }  # fmt: skip
            return out
        return self.sizes[id(layer)][1] if id(layer) in self.sizes else out


def _is_operation(operation, names):
    return not isinstance(operation, layers.Layer) and type(operation).__name__ in names


def _mixes(layer):
    return getattr(layer.activation, "__name__", "") in ACROSS


def _channels_last(layer):
    return getattr(layer, "data_format", "channels_last") == "channels_last"
