"""Layers: what they hold, how Keras calls them, and what rides along with their tensors."""

import functools
import inspect

import keras
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.backend.common.tensor_attributes import get_tensor_attr, set_tensor_attr

CALL, QUANTIZED, CHECKPOINTED = "call", "quantized_call", "rematerialized_call"
SYMBOLIC = "symbolic_call"  # what `Operation.__call__` runs where an argument is symbolic
ATTENTION = "_compute_attention"


def sublayers(layer, recursive=False):
    """Returns the layers that a layer holds, without itself, in the order in which they were set.

    Why private: `layers` is public on models alone, and leaves out what a layer holds.
    """
    return layer._flatten_layers(include_self=False, recursive=recursive)


def adopt(layer, **sublayers):
    """Gives a built layer further layers, under the names of attributes.

    Why private: Keras locks a layer that is built, and unlocks it itself for `enable_lora` alone.
    """
    layer._tracker.unlock()
    for name, each in sublayers.items():
        setattr(layer, name, each)
    layer._tracker.lock()


def mask_of(tensor):
    """Returns the mask that Keras carries along with a tensor, or `None`.

    Why private: layers receive masks, but nobody else may ask for one. Keras's function also
    finds those of JAX's tracers, which take no attributes.
    """
    return get_keras_mask(tensor)


def set_mask(tensor, mask):
    """Attaches a mask to a tensor, as a layer's `compute_mask` does; `None` takes it off."""
    set_keras_mask(tensor, mask)


def logits_of(tensor):
    """Returns what a softmax or a sigmoid was given to return this tensor, or `None`.

    Why private: Keras keeps it for its own cross-entropies, as an attribute of the tensor.
    """
    return get_tensor_attr(tensor, "_keras_logits")


def set_logits(tensor, logits):
    """Remembers what a tensor was before its softmax or sigmoid, on JAX's tracers too."""
    set_tensor_attr(tensor, "_keras_logits", logits)


def takes_training(layer):
    """Returns whether the `call` of a layer has an argument `training`."""
    return "training" in getattr(layer, "call_signature_parameters", ())


def called_last(layer):
    """Returns the name of the method that Keras calls on the instance, and whose result it returns.

    Under rematerialization that is the one that wraps `call` in a checkpoint: what is recorded
    inside of the checkpoint must not leave it.

    Why private: Keras has no hook for what a layer outputs, and `__call__` is not looked up on
    the instance. `Operation.__call__` chooses among these three by these two attributes.
    """
    if getattr(layer, "_remat_mode", None):
        return CHECKPOINTED
    return QUANTIZED if getattr(layer, "quantization_mode", None) else CALL


def checkpoints(layer):
    """Returns whether what lies inside of a layer runs in a checkpoint (`keras.RematScope`).

    Why private: the scope's mode is kept on the layer and nowhere else. "activations" wraps the
    activation alone; whether "larger_than" wraps a layer depends on its output, so it counts.
    """
    remat = getattr(layer, "_remat_mode", None)
    if not remat or remat.mode == "activations":
        return False
    return remat.mode != "list_of_layers" or layer.name in remat.layer_names


def is_quantized(layer):
    """Whether `quantize` has changed a layer. Why private: Keras sets it and shows it nowhere."""
    return bool(getattr(layer, "_is_quantized", False))


def attends(layer):
    """Returns whether a layer computes attention as `keras.layers.MultiHeadAttention` does.

    Why private: `_compute_attention` receives the projected query and key with the merged mask;
    in public, scores are returned only where dropout or a slower kernel happens to need them.
    """
    return hasattr(layer, ATTENTION)


def compute_scores(layer):
    """Makes an attention use its own softmax layer in every call; other layers stay as they are.

    Why private: without dropout `_compute_attention` calls a kernel that shows no scores, unless
    it is asked for them.
    """
    if not attends(layer):
        return
    inner, asked = getattr(layer, ATTENTION), "return_attention_scores"
    signature = inspect.signature(inner)
    if asked not in signature.parameters:
        return

    @functools.wraps(inner)
    def with_scores(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.arguments[asked] = True
        return inner(*bound.args, **bound.kwargs)

    object.__setattr__(layer, ATTENTION, with_scores)


def is_softmax(function):
    """Returns whether an activation is one whose logits Keras remembers."""
    return function in (keras.activations.softmax, keras.activations.sigmoid)


def as_logits(tensor):
    """Returns what stood before a softmax or a sigmoid, or the tensor itself."""
    logits = logits_of(tensor)
    return tensor if logits is None else logits
