"""What models answer: classes, agreement, divergence and whether they are probabilities."""

from keras import ops

from keras_distill.losses.softened import flat_kl, log_probabilities

TOLERANCE = 5e-3  # of a sum of probabilities in half precision


def class_ids(labels, logits, name="labels"):
    """Integer classes of labels in any of the usual forms.

    Args:
        labels: class ids, (batch, ...) or (batch, ..., 1), or one-hot, (batch, ..., classes).
        logits: what is compared with them, (batch, ..., classes).
        name: what an error calls what needs the labels.

    Returns:
        Class ids, int32, of the shape of `logits` without its classes.

    Raises:
        ValueError: where the shapes do not fit each other.
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


def agreement(y_true, y_pred):
    """1 where both sides have the same likeliest class, (batch, ...), else 0.

    Args:
        y_true: logits or probabilities, (batch, ..., classes).
        y_pred: the other side's, of the same shape.
    """
    same = ops.argmax(y_true, axis=-1) == ops.argmax(y_pred, axis=-1)
    return ops.cast(same, y_pred.dtype)


def divergence(y_true, y_pred):
    """`KL(softmax(y_true) || softmax(y_pred))` of each row of logits: (batch, ...).

    Args:
        y_true: the teacher's logits, (batch, ..., classes).
        y_pred: the student's logits, of the same shape.
    """
    return flat_kl(log_probabilities(y_true), log_probabilities(y_pred))


def are_probabilities(value):
    """Returns whether a whole batch is non-negative and sums to one along its last axis.

    Args:
        value: a model's answers, (batch, ..., classes), with values: not inside of a graph.

    Returns:
        A bool; `False` for values that have no axis of classes, or one class alone.
    """
    value = ops.convert_to_numpy(value).astype("float32")
    if value.ndim < 2 or value.shape[-1] < 2 or not value.size or (value < 0).any():
        return False
    return bool((abs(value.sum(-1) - 1) <= TOLERANCE).all())
