"""Measuring holds no array that has all words beside all tokens, for the gradients neither."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_distill import losses
from keras_distill.fused import Head, measure

TOKENS, WORDS, WIDTHS, BLOCK = 64, 96, (4, 6), 8
DENSE = TOKENS * WORDS
BACKEND = keras.backend.backend()

rng = np.random.default_rng(0)
LABELS = rng.integers(0, WORDS, TOKENS)
GIVEN = [
    rng.normal(size=shape).astype("float32")
    for width in WIDTHS
    for shape in ((TOKENS, width), (WORDS, width))
]


def fused(loss, learns):
    def total(*given):
        found = measure(Head(*given[:2]), labels=LABELS, teacher=Head(*given[2:]), loss=loss,
                        accuracy=True, learns=learns, block=BLOCK)  # fmt: skip
        return ops.sum(found.cross_entropy) + ops.sum(found.divergence)

    return total


def plain(loss, learns):
    def total(*given):
        student, teacher = (ops.matmul(h, ops.transpose(e)) for h, e in (given[:2], given[2:]))
        own = ops.take_along_axis(student, ops.convert_to_tensor(LABELS)[:, None], axis=-1)
        entropy = ops.sum(ops.logsumexp(student, axis=-1)) - ops.sum(own)
        return entropy + ops.sum(loss.call(teacher, student))

    return total


def largest(function):
    """The entries of the largest array of a compiled step, or of one that runs at once."""
    return {"tensorflow": in_a_graph, "jax": in_a_jaxpr, "torch": of_calls}[BACKEND](function)


def in_a_graph(function):
    import tensorflow as tf

    @tf.function(autograph=False)
    def step(*given):
        with tf.GradientTape() as tape:
            tape.watch(given)
            value = function(*given)
        return tape.gradient(value, given)

    graph = step.get_concrete_function(*map(tf.constant, GIVEN)).graph
    inner = [each.graph for each in graph._functions.values() if hasattr(each, "graph")]
    tensors = [t for each in (graph, *inner) for op in each.get_operations() for t in op.outputs]
    return max(t.shape.num_elements() or 0 for t in tensors if t.shape.rank is not None)


def in_a_jaxpr(function):
    import jax

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (variable.aval.size for variable in equation.outvars)
            for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from sizes(inner)

    return max(sizes(jax.make_jaxpr(jax.grad(function, argnums=range(4)))(*GIVEN).jaxpr))


def of_calls(function):
    """What each function of PyTorch returns, in the gradient's pass too."""
    import torch
    from torch.overrides import TorchFunctionMode

    sizes = []

    class Watched(TorchFunctionMode):
        def __torch_function__(self, called, types, args=(), kwargs=None):
            found = called(*args, **(kwargs or {}))
            leaves = keras.tree.flatten(found)
            sizes.extend(leaf.numel() for leaf in leaves if isinstance(leaf, torch.Tensor))
            return found

    given = [torch.tensor(one, requires_grad=True) for one in GIVEN]
    with Watched():
        torch.autograd.grad(function(*given), given, allow_unused=True)
    return max(sizes)


@pytest.mark.parametrize(
    "loss, learns",
    [(losses.KLDivergence(2.0), False), (losses.KLDivergence(20.0), False),
     (losses.ReverseKL(2.0), False), (losses.JensenShannon(0.3), True)],
    ids=["kl", "flat_kl", "reverse_kl", "learns"],
)  # fmt: skip
def test_no_array_is_as_large_as_the_logits(loss, learns):
    assert largest(plain(loss, learns)) >= DENSE
    assert largest(fused(loss, learns)) <= 2 * TOKENS * BLOCK  # places have two indices


@pytest.mark.skipif(BACKEND != "torch", reason="of what PyTorch keeps for the gradient")
def test_what_is_kept_for_the_gradient_is_small_and_has_no_graph_of_the_teacher():
    import torch

    given = [torch.tensor(one, requires_grad=True) for one in GIVEN]
    teacher = [one * 2 for one in given[2:]]  # results of operations, so they have a graph
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        fused(losses.ReverseKL(2.0), False)(*given[:2], *teacher)
    assert max(one.numel() for one in kept) <= max(one.size for one in GIVEN)
    assert not [one for one in kept if one.requires_grad and one.shape[-1] == WIDTHS[1]]
