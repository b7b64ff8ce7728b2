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
