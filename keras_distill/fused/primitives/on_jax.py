"""The primitives of JAX; `keras_distill.fused.primitives` says what each does."""

import jax
import jax.numpy as jnp
from keras import ops

from keras_distill.fused.primitives.nests import split

tensor = ops.convert_to_tensor


def loop(count, body, state):
    return jax.lax.fori_loop(0, count, body, state)


def product(left, right):
    return left @ right.T


def argmax(block):
    return jnp.argmax(block, axis=1).astype("int32")


def add(block, columns, values):
    return block.at[jnp.arange(block.shape[0])[:, None], columns].add(values)


def lower(block, columns, values):
    return block.at[jnp.arange(block.shape[0])[:, None], columns].min(values)


def write(blocks, index, rows):
    return jax.lax.dynamic_update_index_in_dim(blocks, rows, index, axis=0)


def with_gradient(forward, backward, learned, given):
    """Passes all tensors as arguments: a `custom_vjp` may not close over what is differentiated."""
    tensors, having = split(given)

    @jax.custom_vjp
    def run(learned, tensors):
        return forward(learned, having(tensors))[0]

    def ahead(learned, tensors):
        values, state = forward(learned, having(tensors))
        return values, (learned, tensors, state)

    def back(kept, upstream):
        learned, tensors, state = kept
        return backward(learned, having(tensors), state, upstream), None

    run.defvjp(ahead, back)
    return run(list(learned), jax.lax.stop_gradient(tensors))


def derivative(function, *sources):
    value, pull = jax.vjp(function, *sources)
    return value, pull(jnp.ones_like(value))
