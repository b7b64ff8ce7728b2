"""An ensemble of a model's branches with trained weights from a gate."""

import keras
from keras import layers, ops

from keras_distill.models.exits.early_exits import outputs_of, unrolled


def gated_ensemble(net: keras.Model, gate: str, *, name: str | None = "ensemble") -> keras.Model:
    """Adds the output of a gated ensemble to a model with several branches.

    `z_ensemble = sum_k g_k z_k` with `g = softmax(ReLU(BN(W f)))`, where f is a feature of the
    trunk.

    With `recipes.one` each branch learns from the ensemble, and labels go to the branches and the
    ensemble. `keep_exit(net, branch)` cuts one branch out.

    Args:
        net: a functional model with a dict of outputs. Each output is the logits of one branch.
        gate: the path of the trunk's feature for the gate: a vector, or a sequence or feature map,
            which is averaged over its positions.
        name: the new output's name. Defaults to `"ensemble"`.

    Returns:
        A functional `keras.Model` with the outputs of `net` and of the ensemble. It shares the
        layers of `net`.

    Raises:
        ValueError: if there are fewer than two outputs, the name is taken, or the outputs differ in
            shape.

    Example:

    ```python
    trunk = student.get_layer("hidden").output
    branches = {name: layers.Dense(10, name=name)(trunk) for name in ("branch_1", "branch_2")}
    net = models.gated_ensemble(keras.Model(student.input, branches), gate="hidden")
    distiller = Distiller(net, terms=recipes.one(net))
    ```

    Reference:
        - [Lan et al., 2018](https://arxiv.org/abs/1806.04606)
    """
    names = list(outputs_of(net))
    if len(names) < 2 or name in names:
        raise ValueError(
            f"An ensemble needs at least two outputs, and none may be named `{name}`. Received: "
            f"{names}"
        )
    inputs, outputs, features = unrolled(net, [gate])
    if len({tuple(output.shape) for output in outputs.values()}) > 1:
        shapes = {key: tuple(output.shape) for key, output in outputs.items()}
        raise ValueError(f"All branches must have the same shape. Received: {shapes}")
    feature = features[gate]
    if len(feature.shape) > 2:
        feature = ops.mean(feature, axis=tuple(range(1, len(feature.shape) - 1)))
    scores = layers.Dense(len(names), use_bias=False, name=f"{name}_gate")(feature)
    scores = layers.BatchNormalization(name=f"{name}_gate_norm")(scores)
    scores = layers.ReLU(name=f"{name}_gate_relu")(scores)
    shares = layers.Softmax(name=f"{name}_gate_shares")(scores)
    branches = ops.stack([outputs[key] for key in names], axis=1)
    ensemble = ops.sum(ops.expand_dims(shares, -1) * branches, axis=1)
    return keras.Model(inputs, {**outputs, name: ensemble}, name=f"{net.name}_gated")
