"""Assigns labels and metrics to the outputs of a student."""

import keras

from keras_distill._keras.layers import takes_training


def run(model, x, training):
    """Calls a model, with `training` if it takes it."""
    return model(x, training=training) if takes_training(model) else model(x)


def one_each(labels, outputs):
    """Repeats one label tensor for every output in a dict of outputs."""
    if isinstance(outputs, dict) and labels is not None and not keras.tree.is_nested(labels):
        return {name: labels for name in outputs}
    return labels


def by_output(value, names):
    """Returns the part of `value` for each output, by the output's name and position.

    Args:
        value: a loss, labels or weights, or a list or dict of them.
        names: the names of the outputs, in their order (`graph.output_names`).

    Returns:
        A dict if there are several outputs. A value of another form is returned unchanged.
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
    """Repeats a list of metrics for every output, for a model with a dict of outputs."""
    if not names or not isinstance(metrics, (list, tuple)):
        return metrics
    if not all(isinstance(metric, str) for metric in metrics):
        return metrics
    return {name: list(metrics) for name in names}
