"""Tensors, arrays and gradients on whichever backend Keras runs."""

import keras
import numpy as np
import pytest

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
else:
    tf = None

NEEDED = "runs what needs TensorFlow"
tensorflow_only = pytest.mark.skipif(tf is None, reason=NEEDED)


def need_tensorflow():
    """Skips a file of tests, before it imports what works on TensorFlow alone."""
    if tf is None:
        pytest.skip(NEEDED, allow_module_level=True)


tensor = keras.ops.convert_to_tensor
array = keras.ops.convert_to_numpy


def call(loss, *sides, **extras):
    """`loss.call` of arrays, as an array."""

    def given(leaf):
        return tensor(leaf) if isinstance(leaf, np.ndarray) else leaf

    sides, extras = keras.tree.map_structure(given, (sides, extras))
    return array(loss.call(*sides, **extras))


def value_and_gradients(function, tensors):
    """`function(tensors)` and its gradient for each of a dict of tensors, zero where unused."""
    with_gradients = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
    return with_gradients[keras.backend.backend()](function, tensors)


def _tensorflow(function, tensors):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = function(tensors)
    return value, tape.gradient(value, tensors, unconnected_gradients="zero")


def _jax(function, tensors):
    import jax

    return jax.jit(jax.value_and_grad(function))(tensors)


def _torch(function, tensors):
    import torch

    tensors = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    value = function(tensors)
    if not tensors:
        return value, {}
    gradients = torch.autograd.grad(
        value, [*tensors.values()], allow_unused=True, materialize_grads=True
    )
    return value.detach(), dict(zip(tensors, gradients, strict=True))
