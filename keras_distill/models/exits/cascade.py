"""Models that stop at the first exit that is confident enough."""

import keras
from keras import ops

from keras_distill._keras import graph
from keras_distill.models.exits.early_exits import outputs_of
from keras_distill.schedules import is_number


def early_exit(
    net: keras.Model, threshold: float, *, from_logits: bool | None = None, with_exit: bool = False
) -> keras.Model:
    """Returns a model that answers at the first exit whose top probability reaches `threshold`.

    `answer = output of the first exit k with max_c softmax(z_k)_c >= threshold, or of the last`

    Once every example of the batch is confident at an exit, the layers behind it are skipped. At
    batch size 1 each example uses only the layers that it needs. An example's answer is the same at
    any batch size. The result is a functional model, which you save and export like any other. A
    SavedModel of it keeps the dynamic depth, and so does `jax.jit`. Use it for inference only: its
    dropout and batch statistics never train.

    Args:
        net: a functional model with a dict of outputs, shallowest first, such as one of
            `add_exits`. The weights are shared.
        threshold: in [0, 1]. With 0 it always stops at the first exit.
        from_logits: whether the exits return logits. Defaults to `None`: they do unless they end in
            a softmax.
        with_exit: whether to return which exit answered, too.

    Returns:
        A functional `keras.Model` whose output is the answer. With `with_exit` it is a dict
        `{"output": the answer, "exit": its index, from the shallowest, (batch,)}`.

    Raises:
        ValueError: if `threshold` is not in [0, 1], `net` has no exits, or an exit does not
            classify into at least two classes.

    Example:

    ```python
    early = models.early_exit(net, threshold=0.9)
    early.export("served")
    ```

    Reference:
        - [Teerapittayanon et al., 2016](https://arxiv.org/abs/1709.01686)
    """
    cascade = Cascade(net, threshold, from_logits=from_logits, name="cascade")
    answer, exit = cascade(graph.inputs(net))
    outputs = {"output": answer, "exit": exit} if with_exit else answer
    return keras.Model(graph.inputs(net), outputs, name=f"{net.name}_early")


@keras.saving.register_keras_serializable(package="keras_distill")
class Cascade(keras.layers.Layer):
    """Runs the stages of a model with exits one after the other, until one is confident enough.

    Args:
        net: a functional model with a dict of outputs, shallowest first.
        threshold: the greatest probability that an exit must reach, in [0, 1].
        from_logits: whether the exits return logits. Defaults to `None`: they do unless they end in
            a softmax.
        **kwargs: as in `keras.layers.Layer`.

    Returns:
        The answer of each example, and the index of the exit that gave it.

    Raises:
        ValueError: if `threshold` is not in [0, 1], or `net` has no exits.

    Example:

    ```python
    answer, exit = models.Cascade(net, threshold=0.9)(x)
    ```
    """

    def __init__(
        self, net: keras.Model, threshold: float, from_logits: bool | None = None, **kwargs
    ):
        check_fraction("threshold", threshold)
        super().__init__(autocast=False, **kwargs)
        self.net, self.threshold = net, threshold
        outputs = outputs_of(net)
        _check_classes(outputs)
        self.exits = tuple(outputs)  # a long head may hold more layers than all deeper blocks
        self.from_logits = _are_logits(outputs) if from_logits is None else from_logits
        done, self._stages = set(), []
        for name in self.exits:
            nodes = [each for each in graph.needed(net, [outputs[name]]) if id(each) not in done]
            done.update(map(id, nodes))
            self._stages.append((nodes, id(outputs[name])))
        self.built = True

    def call(self, x, threshold=None):
        known = graph.given(self.net, x)
        return self._from(0, known, self.threshold if threshold is None else threshold)

    def _from(self, stage, known, threshold):
        """Returns the answers of the exits from `stage` on, and which exits gave them."""
        nodes, answer = self._stages[stage]
        known = graph.run(nodes, known, training=False)
        output = known[answer]
        here = ops.full(ops.shape(output)[:1], stage, dtype="int32")
        if stage == len(self._stages) - 1:
            return output, here
        sure = self.confidence(output) >= threshold

        def deeper():
            later, exit = self._from(stage + 1, known, threshold)
            return ops.where(sure[:, None], output, later), ops.where(sure, here, exit)

        return ops.cond(ops.all(sure), lambda: (output, here), deeper)

    def confidence(self, output):
        """Returns the greatest probability of each example."""
        output = ops.cast(output, "float32")
        return ops.max(ops.softmax(output) if self.from_logits else output, -1)

    def compute_output_spec(self, x, threshold=None):
        first = outputs_of(self.net)[self.exits[-1]]
        return (
            keras.KerasTensor(first.shape, first.dtype),
            keras.KerasTensor(first.shape[:1], "int32"),
        )

    def get_config(self):
        net = keras.saving.serialize_keras_object(self.net)
        ours = {"net": net, "threshold": self.threshold, "from_logits": self.from_logits}
        return {**super().get_config(), **ours}

    @classmethod
    def from_config(cls, config):
        net = keras.saving.deserialize_keras_object(config.pop("net"))
        return cls(net, **config)


def check_fraction(name, value):
    """Raises an error unless a value is a number in [0, 1]."""
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be in [0, 1]. Received: {name}={value}")


def _are_logits(outputs):
    """Returns whether the outputs end in no softmax; all outputs must agree."""
    softmax = {name: _ends_in_softmax(output) for name, output in outputs.items()}
    if len({*softmax.values()}) > 1:
        raise ValueError(
            "All exits must give logits, or all must give probabilities. If they do, set "
            f"`from_logits`. Received: exits that end in a softmax {softmax}"
        )
    return not any(softmax.values())


def _ends_in_softmax(output):
    layer = graph.operation_of(output)
    own = getattr(layer, "activation", None) is keras.activations.softmax
    return own or isinstance(layer, keras.layers.Softmax)


def _check_classes(outputs):
    """Raises an error if an exit has fewer than two classes."""
    for name, output in outputs.items():
        activation = getattr(graph.operation_of(output), "activation", None)
        sigmoid = activation is keras.activations.sigmoid
        if len(output.shape) != 2 or (output.shape[-1] or 2) < 2 or sigmoid:
            raise ValueError(
                "Each exit must give logits or probabilities (batch, classes) of at least two "
                "classes. For a binary model, use two classes. Received: "
                f"`{name}` of shape {tuple(output.shape)}{', from a sigmoid' if sigmoid else ''}"
            )
