"""Separate learning rates for some models or layers."""

import keras

from keras_distill._keras.optimizers import scaled


def scale_learning_rates(
    optimizer: keras.optimizers.Optimizer, multipliers: dict[keras.layers.Layer, float]
) -> keras.optimizers.Optimizer:
    """Gives some models or layers a learning rate of their own.

    `rate of a layer's variables = multiplier * the optimizer's learning rate`

    The multiplier scales the learning rate and not the gradient, so it works in Adam as in SGD, in
    weight decay and with any schedule. A member of a cohort trains as it would alone with an
    optimizer of that learning rate, unless `global_clipnorm` clips all gradients together.

    Args:
        optimizer: any Keras optimizer that is not built yet. It is not changed.
        multipliers: `{model or layer: non-negative number}`. All others have 1.

    Returns:
        An optimizer of the same kind.

    Raises:
        ValueError: if a multiplier is negative, the optimizer is built or scales losses, or a layer
            is not built or lies inside another layer with a multiplier.

    Example:

    ```python
    net = models.cohort(teacher=teacher, student=student)
    adam = models.scale_learning_rates(keras.optimizers.Adam(1e-3), {net.teacher: 0.1})
    distiller = Distiller(net, terms=recipes.online())
    distiller.compile(adam, loss)
    ```
    """
    _check_scalable(optimizer)
    return scaled(optimizer, _scales(multipliers))


def _check_scalable(optimizer):
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "`optimizer` cannot be a LossScaleOptimizer. Give its inner optimizer. `compile` adds "
            "the scaling of the loss."
        )
    if not isinstance(optimizer, keras.optimizers.Optimizer) or optimizer.built:
        raise ValueError(
            "`optimizer` must be a Keras optimizer that is not yet built. Received: "
            f"optimizer={optimizer!r}"
        )


def _scales(multipliers):
    """Returns `(variable, multiplier)` of every trainable variable with a multiplier."""
    found = {}
    for layer, scale in multipliers.items():
        if not isinstance(scale, (int, float)) or not scale >= 0:
            raise ValueError(
                f"A multiplier must be a non-negative number. Received: {layer.name}: {scale!r}"
            )
        if not layer.built:
            raise ValueError(f"`{layer.name}` is not built. Call it on a batch first.")
        for variable in layer.trainable_variables:
            if id(variable) in found:
                raise ValueError(
                    f"`{variable.path}` belongs to two of the layers. Name only one of them."
                )
            found[id(variable)] = variable, scale
    return list(found.values())
