"""Outputs of a student and the labels that go to each."""

import keras

from keras_distill._keras.layers import takes_training


def run(model, x, training):
    """Calls a model, with `training` where it takes it."""
    return model(x, training=training) if takes_training(model) else model(x)


def one_each(labels, outputs):
    """One label tensor for a dict of outputs goes to every output."""
    if isinstance(outputs, dict) and labels is not None and not keras.tree.is_nested(labels):
        return {name: labels for name in outputs}
    return labels


def by_output(value, names):
    """What `fit` or `compile` got for each output, under the output's name and its position.

    Args:
        value: a loss, labels or weights, or a list or dict of them.
        names: the names of the outputs, in their order (`graph.output_names`).

    Returns:
        A dict where there are several outputs; what is not of this form stays as it is.
    """
    if isinstance(value, dict) and value and set(value) <= set(names):
        value = [value.get(name) for name in names]
    elif not isinstance(value, (list, tuple)) or hasattr(value, "_fields"):
        return value
    if len(value) != len(names):
        return value
    if len(names) == 1:
        return value[0]
    named = [*enumerate(value), *zip(names, value)]
    return {str(name): each for name, each in named if each is not None}


def metrics_for(names, metrics):
    """A list of metrics by name, for a model with a dict of outputs, goes to every output."""
    if not names or not isinstance(metrics, (list, tuple)):
        return metrics
    if not all(isinstance(metric, str) for metric in metrics):
        return metrics
    return {name: list(metrics) for name in names}
