"""Our losses under the names of the golden cases, so that both can be compared.

`ADAPTERS` maps a method's name to a function of a case's arrays (tensors by name) and
hyper-parameters that returns the case's scalar loss, computed by our public classes.
"""

import keras
from keras import ops

from keras_distill import losses

ADAPTERS = {}


def adapter(function):
    """Registers a function under its own name."""
    ADAPTERS[function.__name__] = function
    return function


def mean(values, weights=None):
    """The mean over examples or tokens, as a term takes it."""
    if weights is None:
        return ops.mean(values)
    weights = ops.broadcast_to(ops.cast(weights, values.dtype), ops.shape(values))
    return ops.sum(values * weights) / ops.sum(weights)


def cross_entropy(labels, logits):
    """Keras's, averaged over all examples or tokens."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return loss(labels, logits)


# Response


@adapter
def kd_repdistiller(arrays, hyper_parameters):
    loss = losses.KLDivergence(hyper_parameters["temperature"])
    return mean(loss.call(arrays["teacher"], arrays["student"]))


# Features


# Relations


# Transformers


# Language models


# Dense prediction


# Peers and exits
