"""Checks labels on the first batch: class ids out of range, and a wrong `from_logits`."""

import keras
import numpy as np
from keras import ops

from keras_distill._keras.layers import logits_of
from keras_distill.losses.answers import are_probabilities
from keras_distill.losses.plain import argument_of
from keras_distill.training import heads


def check(loss, batch, output):
    """Raises an error if labels do not fit the compiled loss, or the loss does not fit the head.

    Args:
        loss: the loss that `compile` got, or `None`.
        batch: the first `Batch`, of tensors.
        output: the student's output for this batch.
    """
    if loss is None:
        return
    if batch.labels is None:
        raise ValueError(
            "`compile` has a `loss`, but the data hold no labels. Give `(x, y)`. To learn from the "
            "teacher alone, leave the loss out."
        )
    if not ops.is_tensor(output):
        return
    loss = heads.loss_of(loss)
    if heads.kind_of_loss(loss) == "binary":
        _check_binary(loss, output)
    loss, sparse = _categorical(loss)
    if loss is None:
        return
    _check_from_logits(loss, logits_of(output) is not None or are_probabilities(output))
    if sparse:
        labels, classes = ops.convert_to_numpy(batch.labels), output.shape[-1]
        ignored = argument_of(loss, "ignore_class", None)
        wrong = labels[((labels < 0) | (labels >= classes)) & (labels != ignored)]
        if wrong.size:
            raise ValueError(f"Labels must be class ids in [0, {classes}). Received: {wrong[0]}.")


def _check_from_logits(loss, probabilities):
    """Raises an error if a loss takes logits for probabilities, or the other way round."""
    from_logits = argument_of(loss, "from_logits", False)
    if from_logits == probabilities:
        gives = "probabilities" if probabilities else "logits"
        raise ValueError(
            f"The student gives {gives}, so `compile` needs a loss with "
            f"`from_logits={not probabilities}`. Received: from_logits={from_logits}"
        )


def _check_binary(loss, output):
    """Raises an error if a loss of independent labels certainly does not fit the output."""
    values = np.asarray(ops.convert_to_numpy(ops.cast(output, "float32")))
    if logits_of(output) is not None:
        _check_from_logits(loss, probabilities=True)
    elif ((values < 0) | (values > 1)).any():
        _check_from_logits(loss, probabilities=False)


def _categorical(loss):
    """Returns the compiled cross-entropy, and whether it takes class ids."""
    one_hot = (keras.losses.CategoricalCrossentropy, keras.losses.categorical_crossentropy)
    ids = (keras.losses.SparseCategoricalCrossentropy, keras.losses.sparse_categorical_crossentropy)
    for sparse, (kind, function) in ((False, one_hot), (True, ids)):
        if loss is function or isinstance(loss, kind):
            return loss, sparse
    return None, False
