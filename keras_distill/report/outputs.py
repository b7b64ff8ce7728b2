"""Runs models over data, and gives a row of log-probabilities or numbers for each answer."""

import keras
import numpy as np

from keras_distill import _backend
from keras_distill.losses import answers
from keras_distill.report.tasks import seem_probable, two_classes


def answers_of(models, data):
    """Yields the answers of each batch, a row for each example or for each of its tokens or pixels.

    They are `(log-probabilities of each model, labels, examples, count)`. `examples` is the place
    of each row's example in the batch, and `count` is the number of examples in it.
    """
    kinds, late = None, []
    for x, y, weights in unpacked(data):
        found = [_output(model, x) for model in models]
        _check_alike(found)
        kinds = kinds or [seem_probable(each) for each in found]
        count, examples = len(y), np.arange(len(y))
        if found[0].ndim > 2:
            found, y, examples = answers.counted_rows(found, y, weights)
        part = _classes(y, found[0]), examples, count
        if any(each.shape[-1] == 1 for each in found):
            late.append((found, part))  # all values of a unit tell logits from probabilities
        else:
            yield [_log_probs(each, kind) for each, kind in zip(found, kinds)], *part
    ends = np.cumsum([len(labels) for _, (labels, *_) in late])[:-1]
    whole = [np.concatenate(each) for each in zip(*(found for found, _ in late))]
    split = [np.split(_log_probs(each, kind), ends) for each, kind in zip(whole, kinds)]
    for *logs, (_, part) in zip(*split, late):
        yield logs, *part


def _check_alike(outputs):
    shapes = [each.shape for each in outputs]
    if len({(*shape[:-1], max(shape[-1], 2)) for shape in shapes}) > 1:
        raise ValueError(
            "The teacher and the model must have the same classes. Received: outputs of shapes "
            f"{' and '.join(map(str, shapes))}"
        )


def unpacked(data):
    """Yields `(x, y, sample weights)` of each batch, with `y` as an array."""
    empty = True
    for batch in data:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
        yield x, np.asarray(y), weights
        empty = False
    if empty:
        raise ValueError("`data` must hold at least one batch. Received: none")


def _run(model, x):
    if _backend.NAME != "tensorflow":  # batches of tf.data are TensorFlow's tensors
        x = keras.tree.map_structure(np.asarray, x)
    return model.predict_on_batch(x) if isinstance(model, keras.Model) else model(x)


def _output(model, x):
    return _one_output(_run(model, x), "(batch, ..., classes)", range(2, 10))


def numbers_of(model, x):
    """Returns a regression's answers, `(batch, numbers)`."""
    found = _one_output(_run(model, x), "(batch, numbers)", (1, 2))
    return found.reshape(len(found), -1)


def _one_output(output, what, ranks):
    if isinstance(output, (dict, list, tuple)) or len(output.shape) not in ranks:
        received = keras.tree.map_structure(lambda t: tuple(t.shape), output)
        raise ValueError(
            f"A model must have one output of shape {what}. Train other models with `Distiller` or "
            f"`experiments.Runner`, and compare them with `report.compare`. Received: {received}"
        )
    return keras.ops.convert_to_numpy(output).astype("float64")


def targets_of(y, output):
    """Returns the targets of a regression in the output's shape, `(batch, numbers)`."""
    fits = y.size == output.size and y.shape[:1] == output.shape[:1] and y.dtype.kind in "biuf"
    if not fits:
        raise ValueError(
            f"Targets must be numbers of the outputs' shape, {output.shape}. Received: {y.dtype} "
            f"of shape {y.shape}"
        )
    return y.reshape(output.shape).astype("float64")


def _classes(y, output):
    """Returns integer labels for integer or one-hot ones."""
    classes = max(output.shape[-1], 2)
    if output.shape[-1] == 1 and not np.isin(y, (0, 1)).all():
        raise ValueError(
            "One unit says yes or no, so its labels must be 0 or 1. Measure a regression with "
            f'`task="numbers"`. Received: labels from {y.min()} to {y.max()}'
        )
    ones = y.sum(-1) if y.shape == output.shape and np.isin(y, (0, 1)).all() else np.ones(1)
    if output.shape[-1] > 1 and (ones != 1).any():
        raise ValueError(
            "One-hot labels must hold a single 1 in each row. Received: rows with "
            f"{ones.min():g} to {ones.max():g}. If each unit is a label of its own, train the "
            'models with `experiments.Runner`, and judge them with `report.compare(task="labels")`.'
        )
    fits = y.ndim == 1 or (y.ndim == 2 and y.shape[-1] in (1, classes))
    found = keras.ops.convert_to_numpy(answers.class_ids(y, output)) if fits else y
    if not fits or (len(found) and not 0 <= found.min() <= found.max() < classes):
        raise ValueError(
            f"Labels must be one-hot, or integers in [0, {classes}). Received: shape "
            f"{y.shape}, from {y.min()} to {y.max()}"
        )
    return found


def _log_probs(outputs, are_probabilities):
    """Returns log-probabilities of logits or of probabilities; two for one unit of any kind."""
    if outputs.shape[-1] == 1:
        outputs = two_classes(outputs)
    elif are_probabilities:
        outputs = np.log(np.maximum(outputs, np.finfo("float32").tiny))
    shifted = outputs - outputs.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
