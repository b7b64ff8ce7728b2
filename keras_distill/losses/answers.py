"""Classes, agreement and divergence of models' answers, and whether they are probabilities."""

import numpy as np
from keras import ops

from keras_distill.losses.softened import flat_kl, log_probabilities

TOLERANCE = 5e-3  # how far a sum of probabilities in half precision may be from one


def class_ids(labels, logits, name="labels"):
    """Returns integer classes for labels in any of the usual forms.

    Args:
        labels: class ids, (batch, ...) or (batch, ..., 1), or one-hot, (batch, ..., classes).
        logits: the predictions to compare with them, (batch, ..., classes).
        name: the name of the labels in an error message.

    Returns:
        Class ids, int32. Their shape is that of `logits` without the axis of classes.

    Raises:
        ValueError: if the shapes do not fit each other.
    """
    rank = len(logits.shape)
    found = labels
    if len(labels.shape) == rank:
        one_hot = labels.shape[-1] != 1
        found = ops.argmax(labels, axis=-1) if one_hot else ops.squeeze(labels, axis=-1)
    if len(found.shape) != rank - 1:
        raise ValueError(
            f"`{name}` needs one class id for each row of logits. Received: labels of shape "
            f"{tuple(labels.shape)}, logits of shape {tuple(logits.shape)}"
        )
    return ops.cast(found, "int32")


def counted_rows(outputs, labels, weights=None):
    """Returns the answers of a batch that count, as rows: those of all tokens or pixels.

    Args:
        outputs: a list of arrays, (batch, ..., classes), alike but for the number of classes.
        labels: an array of class ids, (batch, ...) or (batch, ..., 1), or one-hot.
        weights: the sample weights, (batch,) or (batch, ...). A weight of 0 leaves an answer out.
            Defaults to `None`: all count.

    Returns:
        A list of arrays (rows, classes), an array (rows,) or (rows, classes) of labels, and an
        array (rows,) of each row's place in the batch.

    Raises:
        ValueError: if the shapes do not fit each other.
    """
    *shape, classes = outputs[0].shape
    one_hot = classes > 1 and labels.shape == outputs[0].shape
    if not one_hot and labels.shape not in ((*shape,), (*shape, 1)):
        raise ValueError(
            f"Labels must be classes for outputs of shape {(*shape, classes)}. "
            f"Received: {labels.shape}"
        )
    counted = np.ones(shape, bool)
    if weights is not None:
        weights = np.asarray(weights)
        if weights.shape != (*shape,)[: weights.ndim]:
            raise ValueError(
                f"Sample weights must fit outputs of shape {(*shape, classes)}. "
                f"Received: {weights.shape}"
            )
        counted &= (weights > 0).reshape(weights.shape + (1,) * (len(shape) - weights.ndim))
    labels = labels.reshape(*shape, classes) if one_hot else labels.reshape(shape)
    return [each[counted] for each in outputs], labels[counted], np.nonzero(counted)[0]


def agreement(y_true, y_pred):
    """Returns 1 where both sides have the same likeliest class, else 0: (batch, ...).

    Args:
        y_true: logits or probabilities, (batch, ..., classes).
        y_pred: the other side's, of the same shape.
    """
    same = ops.argmax(y_true, axis=-1) == ops.argmax(y_pred, axis=-1)
    return ops.cast(same, y_pred.dtype)


def divergence(y_true, y_pred):
    """Returns `KL(softmax(y_true) || softmax(y_pred))` of each row of logits: (batch, ...).

    Args:
        y_true: the teacher's logits, (batch, ..., classes).
        y_pred: the student's logits, of the same shape.
    """
    return flat_kl(log_probabilities(y_true), log_probabilities(y_pred))


def are_probabilities(value):
    """Returns whether a whole batch is non-negative and sums to one along its last axis.

    Args:
        value: a model's answers, (batch, ..., classes). They must have values, so not inside of a
            graph.

    Returns:
        A bool. It is `False` for values without an axis of classes, or with one class alone.
    """
    value = ops.convert_to_numpy(value).astype("float32")
    if value.ndim < 2 or value.shape[-1] < 2 or not value.size or (value < 0).any():
        return False
    return bool((abs(value.sum(-1) - 1) <= TOLERANCE).all())
