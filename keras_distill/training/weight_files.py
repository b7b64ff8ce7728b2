"""Weights files: the student's weights, with the state for resuming in a group beside them."""

import h5py
import numpy as np
from keras import ops

GROUP = "keras_distill"  # no layer of a student has this name
OPTIMIZER = "optimizer"


class WeightsFile:
    """A student's weights, an optimizer, and named layers in one `.weights.h5` file.

    The plain student loads such a file, and a distiller loads a file of the plain student.

    Args:
        student: the student.
        optimizer: the distiller's optimizer, or `None`.
        layers: `{name: layer}` of the layers that train or move beside the student.
    """

    def __init__(self, student, optimizer, layers):
        self.student, self.optimizer, self.layers = student, optimizer, layers

    def save(self, filepath, *args, **kwargs):
        """Writes everything to a file."""
        with self._optimizer_lent():
            self.student.save_weights(filepath, *args, **kwargs)
        if not self.layers:
            return
        if not str(filepath).endswith(".h5"):
            raise ValueError(
                "Weights in shards hold only the student, but this distillation also trains "
                f"{', '.join(self.layers)}. Save to a path that ends in `.weights.h5`. "
                f"Received: filepath={filepath}"
            )
        with h5py.File(filepath, "a") as file:
            for name, layer in self.layers.items():
                group = file.create_group(f"{GROUP}/{name}")
                for index, variable in enumerate(layer.variables):
                    group.create_dataset(str(index), data=_array(variable))

    def load(self, filepath, *args, **kwargs):
        """Reads the student and the optimizer; returns the remaining arrays, `{name: arrays}`."""
        with self._optimizer_lent():
            self.student.load_weights(filepath, *args, **kwargs)
        if not str(filepath).endswith(".h5"):
            return {}
        with h5py.File(filepath, "r") as file:
            found = _groups(file[GROUP]) if GROUP in file else {}
            path = f"{OPTIMIZER}/vars"
            if self.optimizer is not None and not self.optimizer.built and path in file:
                held = file[path]  # the optimizer is built later, and could not take it now
                found[OPTIMIZER] = [np.array(held[str(i)]) for i in range(len(held))]
            return found

    def _optimizer_lent(self):
        return _Lent(self.student, self.optimizer)


class _Lent:
    """Lends a student that is not compiled the optimizer that its file should hold."""

    def __init__(self, student, optimizer):
        self.student, self.optimizer = student, optimizer

    def __enter__(self):
        self.lent = self.optimizer is not None and not hasattr(self.student, "optimizer")
        if self.lent:
            self.student.optimizer = self.optimizer

    def __exit__(self, *_):
        if self.lent:
            del self.student.optimizer


def assign(layer, arrays, name):
    """Assigns to a layer the arrays that a file holds for it.

    Raises:
        ValueError: if they do not fit.
    """
    shapes = [tuple(variable.shape) for variable in layer.variables]
    if [array.shape for array in arrays] != shapes:
        raise ValueError(
            f"The weights file holds `{name}` with other shapes than this distiller. Give the same "
            f"student, teachers and terms. Received: {[a.shape for a in arrays]} instead of "
            f"{shapes}"
        )
    for variable, array in zip(layer.variables, arrays):
        variable.assign(array)


def _groups(group, prefix=""):
    found = {}
    for name, item in group.items():
        if all(isinstance(each, h5py.Dataset) for each in item.values()):
            found[prefix + name] = [np.array(item[str(i)]) for i in range(len(item))]
        else:
            found.update(_groups(item, f"{prefix}{name}/"))
    return found


def _array(variable):
    """Returns a variable as an array that a file can hold; bfloat16 becomes float32."""
    value = ops.convert_to_numpy(variable.value if variable.dtype != "bfloat16"
                                 else ops.cast(variable.value, "float32"))  # fmt: skip
    return np.asarray(value)
