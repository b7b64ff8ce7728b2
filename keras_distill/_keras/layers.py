"""Layers: what they hold, how Keras calls them, and what their tensors carry."""

import functools
import inspect

import keras
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.backend.common.tensor_attributes import get_tensor_attr, set_tensor_attr

CALL, QUANTIZED, CHECKPOINTED = "call", "quantized_call", "rematerialized_call"
SYMBOLIC = "symbolic_call"  # what `Operation.__call__` runs if an argument is symbolic
ATTENTION = "_compute_attention"


def sublayers(layer, recursive=False):
    """Returns the layers that a layer holds, without itself, in the order in which they were set.

    The name is private since the public `layers` exists on models alone, and lacks a layer's own.
    """
    return layer._flatten_layers(include_self=False, recursive=recursive)


def adopt(layer, **sublayers):
    """Gives a built layer further layers, as attributes of these names.

    The name is private since Keras locks a built layer, and unlocks it for `enable_lora` alone.
    """
    layer._tracker.unlock()
    for name, each in sublayers.items():
        setattr(layer, name, each)
    layer._tracker.lock()


def mask_of(tensor):
    """Returns the mask that a tensor carries, or `None`.

    The name is private since Keras gives masks to layers alone. Keras's function also finds the
    masks of JAX's tracers, which take no attributes.
    """
    return get_keras_mask(tensor)


def set_mask(tensor, mask):
    """Attaches a mask to a tensor, as a layer's `compute_mask` does. `None` removes it."""
    set_keras_mask(tensor, mask)


def logits_of(tensor):
    """Returns the logits before a softmax or sigmoid that returned this tensor, or `None`.

    The name is private since Keras keeps the logits on the tensor for its own cross-entropies.
    """
    return get_tensor_attr(tensor, "_keras_logits")


def set_logits(tensor, logits):
    """Attaches to a tensor its logits before a softmax or sigmoid, on JAX's tracers too."""
    set_tensor_attr(tensor, "_keras_logits", logits)


def takes_training(layer):
    """Returns whether the `call` of a layer has an argument `training`."""
    return "training" in getattr(layer, "call_signature_parameters", ())


def called_last(layer):
    """Returns the name of the method that Keras calls on the instance and whose result it returns.

    Under rematerialization this method wraps `call` in a checkpoint. Nothing that is recorded
    inside of the checkpoint may leave it.

    The names are private since Keras has no hook for a layer's outputs, and Python does not look up
    `__call__` on the instance. `Operation.__call__` chooses among these three methods by these two
    attributes."""
    if getattr(layer, "_remat_mode", None):
        return CHECKPOINTED
    return QUANTIZED if getattr(layer, "quantization_mode", None) else CALL


def checkpoints(layer):
    """Returns whether the inside of a layer runs in a checkpoint (`keras.RematScope`).

    The name is private since Keras keeps the scope's mode on the layer and nowhere else.
    "activations" wraps the activation alone. With "larger_than" it depends on the layer's output,
    so the function returns `True`.
    """
    remat = getattr(layer, "_remat_mode", None)
    if not remat or remat.mode == "activations":
        return False
    return remat.mode != "list_of_layers" or layer.name in remat.layer_names


def is_quantized(layer):
    """Returns whether `quantize` has changed a layer, which Keras shows in a private name alone."""
    return bool(getattr(layer, "_is_quantized", False))


def attends(layer):
    """Returns whether a layer computes attention as `keras.layers.MultiHeadAttention` does.

    The name is private since only `_compute_attention` gets the projected query and key with the
    merged mask. In public, Keras returns scores only if dropout or a slower kernel needs them.
    """
    return hasattr(layer, ATTENTION)


def compute_scores(layer):
    """Makes an attention layer use its own softmax layer in every call; others stay unchanged.

    The name is private since `_compute_attention` without dropout calls a kernel that returns no
    scores, unless it is asked for them.
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
    """Returns whether Keras remembers the logits of an activation."""
    return function in (keras.activations.softmax, keras.activations.sigmoid)


def as_logits(tensor):
    """Returns the logits before a softmax or a sigmoid, or the tensor itself."""
    logits = logits_of(tensor)
    return tensor if logits is None else logits
