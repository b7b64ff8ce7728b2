"""Resumes an earlier `fit`: its place in the training, and all state that changes."""

import contextlib
import hashlib
import importlib
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from keras import ops, tree

from keras_distill import _backend


class Place(NamedTuple):
    """A place in a training.

    Args:
        epoch: the epoch, counted from 0.
        step: how many steps of the epoch are done.
        stopped: whether a callback has ended the training here. Defaults to `False`.
        generators: the states of PyTorch's generators after the step, arrays. Defaults to none.
        epoch_generators: the states at the beginning of the epoch, which determine its order.
            Defaults to none.
    """

    epoch: int
    step: int
    stopped: bool = False
    generators: tuple = ()
    epoch_generators: tuple = ()

    def initial_epoch(self, epochs):
        """Returns the epoch with which a `fit` of so many epochs begins."""
        return epochs if self.stopped else min(self.epoch, epochs)


@runtime_checkable
class Resuming(Protocol):
    """A callback that knows the place that an earlier `fit` has reached."""

    def resuming(self, distiller):
        """Returns a context manager for the time of a `fit`. Its value is a `Place`, or `None`."""


@contextlib.contextmanager
def place_of(callbacks, model):
    """Returns the `Place` where the `fit` of a distiller with these callbacks begins, or `None`."""
    found = [each for each in callbacks if isinstance(each, Resuming)]
    if len(found) > 1:
        raise ValueError(f"Only one callback may resume a `fit`. Received: {found}")
    with found[0].resuming(model) if found else contextlib.nullcontext() as place:
        yield place


def arrays(variables):
    """Returns the values of variables as arrays. All of several workers must call it together."""
    if _backend.NAME == "tensorflow":  # its variables on replicas are no arrays
        read = _backend.tensorflow("A checkpoint").convert_to_tensor
    else:
        read = ops.convert_to_tensor
    return [np.array(ops.convert_to_numpy(read(variable.value))) for variable in variables]


def assign(variables, values, what):
    """Assigns values to variables.

    Args:
        variables: the variables.
        values: an array for each.
        what: the source of the values, for the error message.

    Raises:
        ValueError: if the values belong to other variables.
    """
    shapes = [tuple(variable.shape) for variable in variables]
    if shapes != [value.shape for value in values]:
        raise ValueError(
            f"{what} has other variables than this training. Give the same student, "
            f"teachers, terms, optimizer and callbacks, or another folder. Received: {shapes} "
            f"instead of {[value.shape for value in values]}"
        )
    for variable, value in zip(variables, values):
        variable.assign(value)


def generators():
    """Returns the states of PyTorch's global generators as arrays; empty on other backends.

    Dropout without a seed and shuffles draw from them, and from no variable.
    """
    if _backend.NAME != "torch":
        return ()
    torch = importlib.import_module("torch")
    states = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    return tuple(state.cpu().numpy().copy() for state in states)


def set_generators(states):
    """Sets the generators to the states that `generators` has returned."""
    if not states:
        return
    torch = importlib.import_module("torch")
    own, *others = (torch.from_numpy(np.array(state)) for state in states)
    torch.set_rng_state(own)
    for device, state in zip(range(torch.cuda.device_count()), others):
        torch.cuda.set_rng_state(state, device)


def digest(batch):
    """Returns a short digest of the values of a batch, or `None` without a batch."""
    if batch is None:
        return None
    found = hashlib.blake2b(digest_size=8)
    for leaf in tree.flatten(batch):
        if leaf is not None:
            array = np.asarray(ops.convert_to_numpy(leaf) if ops.is_tensor(leaf) else leaf)
            text = array.dtype.hasobject
            found.update(repr(array.tolist()).encode() if text else array.tobytes())
    return found.hexdigest()
