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


def metrics_for(names, metrics):
    """Repeats a list of metrics for every output, for a model with a dict of outputs."""
    if not names or not isinstance(metrics, (list, tuple)):
        return metrics
    if not all(isinstance(metric, str) for metric in metrics):
        return metrics
    return {name: list(metrics) for name in names}
