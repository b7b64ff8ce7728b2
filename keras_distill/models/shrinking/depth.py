"""Counts the blocks of a model, to know the depths that a student can have."""

import keras

from keras_distill.models.shrinking.blocks import stacks_of
from keras_distill.models.shrinking.copied_weights import children


def depth_of(model: keras.Model) -> int:
    """Returns the number of blocks of the deepest stack in a model, or 0 if it has none.

    Args:
        model: a built `keras.Model`.

    Returns:
        An integer. It does not tell whether `shrink` can cut the model.

    Example:

    ```python
    students = [models.shrink(teacher, depth=n) for n in range(1, models.depth_of(teacher))]
    ```
    """
    layers = [*model.layers, *(child for layer in model.layers for child in children(layer))]
    deepest = max(map(len, stacks_of(layers).values()), default=0)
    inner = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    return max([deepest, *map(depth_of, inner)])
