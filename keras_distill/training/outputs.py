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


def metrics_for(names, metrics):
    """A list of metrics by name, for a model with a dict of outputs, goes to every output."""
    if not names or not isinstance(metrics, (list, tuple)):
        return metrics
    if not all(isinstance(metric, str) for metric in metrics):
        return metrics
    return {name: list(metrics) for name in names}
