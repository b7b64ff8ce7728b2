"""Values and gradients on whichever backend Keras runs: compiled where it compiles a step."""

import keras
import numpy as np

BACKEND = keras.backend.backend()
array = keras.ops.convert_to_numpy


def values_and_gradients(function, given, upstream, xla=False):
    """`[*values, *gradients]`, arrays: of the sum of `value * upstream`; zeros where unused.

    Args:
        function: of the tensors `given`; it returns several values.
        given: a list of tensors.
        upstream: an array for each value.
        xla: whether TensorFlow compiles by XLA, as JAX always does.
    """
    upstream = [keras.ops.convert_to_tensor(np.asarray(one)) for one in upstream]
    by = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[BACKEND]
    values, gradients = by(function, list(given), upstream, xla)
    return [array(one) for one in (*values, *gradients)]


def of_structure(function, given):
    """A scalar of a structure of tensors and its gradients there, both tensors; zeros where unused.

    Nothing is compiled, and no variable that `function` assigns is changed on JAX.
    """
    by = {"tensorflow": _tensorflow_eager, "jax": _jax_eager, "torch": _torch_eager}[BACKEND]
    return by(function, given)


def _tensorflow_eager(function, given):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(given)
        value = function(given)
    return value, tape.gradient(value, given, unconnected_gradients="zero")


def _jax_eager(function, given):
    import jax

    def value(given):
        with keras.StatelessScope():
            return function(given)

    return jax.value_and_grad(value)(given)


def _torch_eager(function, given):
    import torch

    given = keras.tree.map_structure(lambda one: one.detach().requires_grad_(), given)
    value = function(given)
    leaves = keras.tree.flatten(given)
    if not value.requires_grad:
        return value, keras.tree.map_structure(torch.zeros_like, given)
    found = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return value.detach(), keras.tree.pack_sequence_as(given, list(found))


def _total(values, upstream):
    pairs = zip(values, upstream, strict=True)
    return sum(keras.ops.sum(value * keras.ops.cast(up, value.dtype)) for value, up in pairs)


def _tensorflow(function, given, upstream, xla):
    import tensorflow as tf

    @tf.function(autograph=False, jit_compile=xla)
    def run(*given):
        with tf.GradientTape() as tape:
            tape.watch(given)
            values = function(*given)
            total = _total(values, upstream)
        return values, tape.gradient(total, given, unconnected_gradients="zero")

    return run(*given)


def _jax(function, given, upstream, xla):
    import jax

    def total(given):
        values = function(*given)
        return _total(values, upstream), values

    (_, values), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(given)
    return values, gradients


def _torch(function, given, upstream, xla):
    import torch

    given = [one.detach().requires_grad_() for one in given]
    values = function(*given)
    total = _total(values, upstream)
    gradients = torch.autograd.grad(total, given, allow_unused=True, materialize_grads=True)
    return [value.detach() for value in values], gradients


def of_variables(function, variables):
    """`[value, *gradients]`, arrays: of a scalar of a model with respect to `variables`."""
    by = {"tensorflow": _tensorflows, "jax": _jaxs, "torch": _torchs}[BACKEND]
    value, gradients = by(function, variables)
    return [array(one) for one in (value, *gradients)]


def _tensorflows(function, variables):
    import tensorflow as tf

    @tf.function(autograph=False)
    def run():
        with tf.GradientTape() as tape:
            value = function()
        values = [variable.value for variable in variables]
        found = tape.gradient(value, values, unconnected_gradients="zero")
        return value, [tf.convert_to_tensor(one) for one in found]

    return run()


def _jaxs(function, variables):
    import jax

    def value(values):
        with keras.StatelessScope(state_mapping=zip(variables, values)):
            return function()

    return jax.jit(jax.value_and_grad(value))([variable.value for variable in variables])


def _torchs(function, variables):
    import torch

    value = function()
    values = [variable.value for variable in variables]
    gradients = torch.autograd.grad(value, values, allow_unused=True, materialize_grads=True)
    return value.detach(), gradients
