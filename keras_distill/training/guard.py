"""Skips an update that is not finite, and says what it was: what all backends share."""

import warnings

import keras
import numpy as np
from keras import ops, tree

from keras_distill.schedules import Knob

MOST = 28  # culprits that the bits of an int32 have room for, beside "the gradients" and a sign


class NotFinite(ValueError):
    """A loss or gradient was NaN or infinite; the update was not made."""


class Guard:
    """Remembers the first step whose total or gradients were not finite.

    Attributes:
        record: `[fault, step]`; bit `i` of `fault` stands for the `i`-th culprit, named when the
            step was traced. The step of a backend reads and writes it.
        warns: whether a fault is only warned of, since a callback ends the training.
    """

    def __init__(self):
        self.record = keras.Variable(np.zeros(2, "int32"), trainable=False, name="guard_record")
        self.culprits, self.pending, self.warns = [], [], False

    def begin(self, warns):
        """Forgets faults of an earlier training; whether the step must be traced anew for it."""
        self.pending.clear()
        self.record.assign(np.zeros(2, "int32"))
        self.warns = warns
        return False

    def fine(self, total, gradients, knobs=()):
        """Returns whether all is finite, a scalar tensor: one pass over the gradients.

        Gradients above 1e19, whose squares overflow, count as infinite: so do Adam's moments.
        """
        squares = [ops.sum(ops.square(ops.cast(g, "float32"))) for g in gradients if g is not None]
        scalars = [ops.cast(ops.sum(total), "float32"), *knobs, *squares]
        return ops.isfinite(sum(scalars[1:], scalars[0]))

    def noted(self, suspects, step):
        """Returns `[fault, step]` of a step that was not fine."""
        suspects = dict(list(suspects.items())[:MOST])
        self.culprits = [*suspects, "the gradients"]
        bits = [ops.cast(ops.logical_not(_finite(value)), "int32") * (1 << i)
                for i, value in enumerate(suspects.values())]  # fmt: skip
        found = sum(bits[1:], bits[0]) if bits else ops.zeros((), "int32")
        found = ops.where(found > 0, found, 1 << len(suspects))
        return ops.stack([ops.cast(found, "int32"), ops.cast(step, "int32")])

    def check(self, leave=0):
        """Raises what the pending records say, but for the newest `leave` of them."""
        while len(self.pending) > leave:
            self.raise_if(self.pending.pop(0))

    def raise_if(self, record):
        """Raises what a record says, if it says anything."""
        fault, step = (int(part) for part in ops.convert_to_numpy(record))
        if not fault:
            return
        self.pending.clear()
        error = fault_of([name for i, name in enumerate(self.culprits) if fault >> i & 1], step)
        if not self.warns:
            raise error
        warnings.warn(str(error), stacklevel=3)


def knobs_of(suspects):
    """Returns the values of schedules and variables, which are looked at in every step."""
    return [value for name, value in suspects.items() if isinstance(name, Knob)]


def fault_of(names, step):
    """Returns the error that names what was not finite."""
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
