"""Operations that differ between backends: loops over blocks, writes into arrays, derivatives.

`keras.ops` does the rest. Its own loops, scattered writes and `custom_gradient` are not enough
here. On TensorFlow its loop runs ten blocks at once. On PyTorch a scattered write copies the whole
array. A derivative of several outputs with a state has no form for all backends.

- `tensor(array)`: a tensor of an array, tensor or variable.
- `loop(count, body, state)`: `state = body(index, state)` for each index below `count`.
- `product(left, right)`: `left @ right^T`.
- `argmax(block)`: the first greatest column of each row, int32.
- `add(block, columns, values)`: a block, (rows, columns), with `values`, (rows, k), added at
  `columns`, (rows, k), which may name one column twice.
- `lower(block, columns, values)`: the block with these entries at most `values`.
- `write(blocks, index, rows)`: `blocks` with one block replaced, in place if nothing else holds
  it.
- `with_gradient(forward, backward, learned, given)`: the values of `forward(learned, given)`, which
  returns `(values, state)`; their gradients with respect to the list `learned` are
  `backward(learned, given, state, upstream)`. `values` is a list, `state` and `given` are nests;
  `given` may hold what is no tensor, and has no gradient.
- `derivative(function, *sources)`: the `value` of a function, with one entry per row, and the
  gradients `slopes` of its sum.
"""

import importlib

from keras_distill import _backend

_own = importlib.import_module(f"keras_distill.fused.primitives.on_{_backend.NAME}")

tensor = _own.tensor
loop = _own.loop
product = _own.product
argmax = _own.argmax
add = _own.add
lower = _own.lower
write = _own.write
with_gradient = _own.with_gradient
derivative = _own.derivative
