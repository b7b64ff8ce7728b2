"""The guard of all backends: it skips an update that is not finite, and names the cause."""

import warnings

import keras
import numpy as np
from keras import ops, tree

from keras_distill.schedules import Knob

MOST = 28  # the bits of an int32, less one for the gradients and one for the sign


class NotFinite(ValueError):
    """A loss or gradient was NaN or infinite, so the update was not made."""


class Guard:
    """Remembers the first step whose total or gradients were not finite.

    record: `[fault, step]`. Bit `i` of `fault` stands for the `i`-th culprit; tracing the step
        names them. The step of a backend reads and writes it.
            step was traced. The step of a backend reads and writes it.
        warns: whether a fault only warns, since a callback ends the training.
    """

    def __init__(self):
        self.record = keras.Variable(np.zeros(2, "int32"), trainable=False, name="guard_record")
        self.culprits, self.pending, self.warns = [], [], False

    def begin(self, warns):
        """Forgets faults of an earlier training; returns whether the step must be traced again."""
        self.pending.clear()
        self.record.assign(np.zeros(2, "int32"))
        self.warns = warns
        return False

    def fine(self, total, gradients, knobs=()):
        """Returns whether everything is finite, a scalar tensor, by one pass over the gradients.

        Gradients above 1e19 count as infinite, since their squares overflow, as Adam's moments do.
        """
        squares = [ops.sum(ops.square(ops.cast(g, "float32"))) for g in gradients if g is not None]
        scalars = [ops.cast(ops.sum(total), "float32"), *knobs, *squares]
        return ops.isfinite(sum(scalars[1:], scalars[0]))

    def noted(self, suspects, step):
        """Returns `[fault, step]` of a step that is not finite."""
        suspects = dict(list(suspects.items())[:MOST])
        self.culprits = [*suspects, "the gradients"]
        bits = [ops.cast(ops.logical_not(_finite(value)), "int32") * (1 << i)
                for i, value in enumerate(suspects.values())]  # fmt: skip
        found = sum(bits[1:], bits[0]) if bits else ops.zeros((), "int32")
        found = ops.where(found > 0, found, 1 << len(suspects))
        return ops.stack([ops.cast(found, "int32"), ops.cast(step, "int32")])

    def check(self, leave=0):
        """Raises the faults of pending records, without the newest `leave` of them."""
        while len(self.pending) > leave:
            self.raise_if(self.pending.pop(0))

    def raise_if(self, record):
        """Raises the fault of a record, if it has one."""
        fault, step = (int(part) for part in ops.convert_to_numpy(record))
        if not fault:
            return
        self.pending.clear()
        error = fault_of([name for i, name in enumerate(self.culprits) if fault >> i & 1], step)
        if not self.warns:
            raise error
        warnings.warn(str(error), stacklevel=3)


def knobs_of(suspects):
    """Returns the values of schedules and variables, which every step checks."""
    return [value for name, value in suspects.items() if isinstance(name, Knob)]


def fault_of(names, step):
    """Returns the error that names the values that were not finite."""
    if isinstance(names[0], Knob):
        return names[0].error(step)
    return NotFinite(
        f"Not finite (NaN or infinite) at step {step}: {', '.join(names)}. This update was "
        "skipped, so the weights are those before it. Check for bad inputs and for labels out of "
        "range. If there are none, lower the learning rate or the term's weight, or set `clipnorm`."
    )


def _finite(structure):
    """Returns whether all floating tensors of a structure are finite, a scalar tensor."""
    tensors = [t for t in tree.flatten(structure) if ops.is_tensor(t)]
    tensors = [t for t in tensors if "float" in keras.backend.standardize_dtype(t.dtype)]
    found = [ops.all(ops.isfinite(tensor)) for tensor in tensors]
    return ops.all(ops.stack(found)) if found else ops.convert_to_tensor(True)
