"""Counts the operations of matrix products and convolutions in a function."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_distill import _backend


def operations(function: Callable[..., Any], *specs: Any) -> int:
    """Counts the operations of matrix products and convolutions in one call.

    Args:
        function: a model, or a function of tensors.
        *specs: the arguments, as `keras.KerasTensor`s of known shapes, or structures of them.

    Returns:
        An integer, two for each multiplication. Elementwise operations are not counted.

    Raises:
        ValueError: if a shape is not known.

    Example:

    ```python
    models.operations(student, keras.KerasTensor((1, 8, 8, 3)))
    ```
    """
    for spec in keras.tree.flatten(specs):
        if None in tuple(spec.shape):
            raise ValueError(
                f"Operations can only be counted for known shapes. Received: {tuple(spec.shape)}"
            )
    count = {"tensorflow": _of_tensorflow, "jax": _of_jax, "torch": _of_torch}[_backend.NAME]
    return count(function, specs)


def _dtype(spec):
    return keras.backend.standardize_dtype(spec.dtype)


def _of_tensorflow(function, specs):
    """Counts operations by the shapes in the graph that TensorFlow traces."""
    tf = _backend.tensorflow("`models.operations`")
    specs = keras.tree.map_structure(lambda s: tf.TensorSpec(tuple(s.shape), _dtype(s)), specs)
    traced = tf.function(lambda *tensors: function(*tensors), autograph=False)
    graph = traced.get_concrete_function(*specs).graph
    return sum(_multiplications(op) for op in graph.get_operations()) * 2


def _multiplications(op):
    """Returns the multiplications of a node of the graph, by its shapes."""
    kind = op.type
    if kind not in ("MatMul", "BatchMatMulV2", "Conv2D", "DepthwiseConv2dNative", "Einsum",
                    "Conv3D"):  # fmt: skip
        return 0
    shapes = [tuple(tensor.shape) for tensor in (*op.inputs, *op.outputs)]
    if any(size is None for shape in shapes for size in shape):
        raise ValueError(
            f"Operations can only be counted for known shapes. Received: {op.name} with {shapes}"
        )
    output, kernel = shapes[-1], shapes[1]
    if kind == "Einsum":
        return _of_einsum(op.get_attr("equation").decode(), shapes)
    if kind == "MatMul":
        return int(np.prod(output)) * shapes[0][0 if op.get_attr("transpose_a") else 1]
    if kind == "BatchMatMulV2":
        return int(np.prod(output)) * shapes[0][-2 if op.get_attr("adj_x") else -1]
    if kind == "DepthwiseConv2dNative":
        return int(np.prod(output)) * int(np.prod(kernel[:2]))
    return int(np.prod(output)) * int(np.prod(kernel[:-1]))


def _of_einsum(equation, shapes):
    """Returns the product of the sizes of all axes."""
    subscripts = equation.split("->")[0].split(",")
    sizes, rest = {}, 1
    for letters, shape in zip(subscripts, shapes):
        before, dots, after = letters.partition("...")
        named = len(before) + len(after)
        ends = [*shape[: len(before)], *(shape[len(shape) - len(after) :] if after else ())]
        sizes.update(zip(before + after, ends))
        hidden = shape[len(before) : len(before) + len(shape) - named] if dots else ()
        rest = max(rest, int(np.prod(hidden)))
    return rest * int(np.prod(list(sizes.values())))


def _of_jax(function, specs):
    """Counts operations by the shapes in the program that JAX traces."""
    import jax

    specs = keras.tree.map_structure(
        lambda s: jax.ShapeDtypeStruct(tuple(s.shape), _dtype(s)), specs
    )
    return 2 * _multiplications_of_program(jax.make_jaxpr(function)(*specs).jaxpr)


def _multiplications_of_program(program):
    """Returns the multiplications of a program's equations, with those of inner programs."""
    total = 0
    for equation in program.eqns:
        inside = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        turns = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += turns * sum(map(_multiplications_of_program,
                                 (each for each in inside if hasattr(each, "eqns"))))  # fmt: skip
        total += _multiplications_of_equation(equation)
    return total


def _multiplications_of_equation(equation):
    kind = equation.primitive.name
    if kind not in ("dot_general", "conv_general_dilated"):
        return 0
    left, right = (variable.aval.shape for variable in equation.invars[:2])
    each = int(np.prod(equation.outvars[0].aval.shape))
    numbers = equation.params["dimension_numbers"]
    if kind == "dot_general":
        (contracted, _), _ = numbers
        return each * int(np.prod([left[axis] for axis in contracted]))
    return each * int(np.prod(right)) // right[numbers.rhs_spec[0]]


def _of_torch(function, specs):
    """Counts operations by PyTorch's own counter, in one run on zeros."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    zeros = keras.tree.map_structure(lambda s: keras.ops.zeros(tuple(s.shape), _dtype(s)), specs)
    plain = sdpa_kernel(SDPBackend.MATH)  # the counter does not know all attention kernels
    with torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
        function(*zeros)
    return int(counter.get_total_flops())
