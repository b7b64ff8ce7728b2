"""The primitives of PyTorch; `keras_distill.fused.primitives` says what each does."""

import torch
from keras import ops

from keras_distill.fused.primitives.nests import split

tensor = ops.convert_to_tensor


def loop(count, body, state):
    for index in range(count):
        state = body(index, state)
    return state


def product(left, right):
    return left @ right.T


def argmax(block):
    return torch.argmax(block, dim=1).int()


def add(block, columns, values):
    return block.scatter_add(1, columns.long(), values)


def lower(block, columns, values):
    return block.scatter_reduce(1, columns.long(), values, "amin")


def write(blocks, index, rows):
    """Writes in place; `keras.ops.scatter_update` copies all blocks each time."""
    blocks[index] = rows
    return blocks


def with_gradient(forward, backward, learned, given):
    tensors, having = split(given)
    given = having([tensor.detach() for tensor in tensors])  # no graph of a teacher is kept
    return list(_WithGradient.apply(forward, backward, given, *learned))


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, forward, backward, given, *learned):
        values, state = forward(learned, given)
        tensors, ctx.having = split((list(learned), given, state))
        ctx.save_for_backward(*tensors)
        ctx.gradients = backward
        return tuple(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *upstream):
        learned, given, state = ctx.having(ctx.saved_tensors)
        return None, None, None, *ctx.gradients(learned, given, state, upstream)


def derivative(function, *sources):
    with torch.enable_grad():
        sources = [source.detach().requires_grad_() for source in sources]
        value = function(*sources)
        slopes = torch.autograd.grad(
            value.sum(), sources, allow_unused=True, materialize_grads=True
        )
    return value.detach(), slopes
