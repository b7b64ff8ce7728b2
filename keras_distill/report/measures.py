"""What a classifier is worth on labelled data, and how like its teacher it is.

Everything here works on any Keras model of one output `(batch, classes)`, logits or not.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_distill import _backend
from keras_distill.losses import answers
from keras_distill.report.calibration import GROUPS, calibration_error, equal_counts

LIKENESS = ("agreement", "kl_to_teacher")


def measure(model: keras.Model, data: Any, teacher: Callable[[Any], Any] | None = None) -> dict:
    """Measures a classifier on labelled data, and its agreement with a teacher.

    `agreement = mean(argmax p_T == argmax p_S)`,
    `kl_to_teacher = mean(sum_c p_T (log p_T - log p_S))` at temperature 1,
    `expected_calibration_error = sum_b n_b / n |accuracy_b - confidence_b|` over 15 equal bins.

    Args:
        model: a `keras.Model` whose output is `(batch, classes)`, logits or probabilities.
        data: batches of `(x, y)`, `y` integer classes or one-hot.
        teacher: a model, or a function of `x`, with the same classes. Defaults to `None`: no
            likeness is measured.

    Returns:
        A dict of `accuracy` in [0, 1], `expected_calibration_error`, `nll`, `parameters` and, with
        a teacher, `agreement` in [0, 1] and `kl_to_teacher`. An example whose answer is not finite
        counts as wrong and is left out of the other measures; `not_finite` is how many there are.
        Where no answer is finite, each measure is `None`, and `failed` says so.

    Raises:
        ValueError: for no data, and for outputs and labels that do not fit.

    Example:

    ```python
    report.measure(student, dataset, teacher)["agreement"]
    ```
    """
    models = [model] if teacher is None else [model, teacher]
    log_probs, labels = _predict(models, data)
    return {**scores(log_probs[0], labels, *log_probs[1:]), "parameters": model.count_params()}


def predictions(model: keras.Model, data: Any) -> tuple:
    """The log-probabilities and integer labels of a model over its data, in the data's order.

    Args:
        model: a `keras.Model` whose output is `(batch, classes)`, logits or probabilities.
        data: batches of `(x, y)`, in the same order at each pass if passes are to be compared.

    Returns:
        An array `(examples, classes)` and an array `(examples,)`.

    Raises:
        ValueError: as `measure` does.

    Example:

    ```python
    log_probs, labels = report.predictions(student, dataset)
    ```
    """
    (log_probs,), labels = _predict([model], data)
    return log_probs, labels


def scores(log_probs: Any, labels: Any, teacher_log_probs: Any = None) -> dict:
    """The measures of `measure`, except `parameters`, from `predictions`.

    Args:
        log_probs: an array `(examples, classes)`.
        labels: integer classes, an array `(examples,)`.
        teacher_log_probs: the teacher's, of the same shape. Defaults to `None`: no teacher.

    Returns:
        A dict as `measure` returns it.

    Raises:
        ValueError: for a teacher with other classes.

    Example:

    ```python
    log_probs, labels = report.predictions(student, dataset)
    report.scores(log_probs, labels)["accuracy"]
    ```
    """
    if teacher_log_probs is not None and teacher_log_probs.shape != log_probs.shape:
        raise ValueError(
            "The teacher and the model must have the same classes. Received: log-probabilities of "
            f"shapes {teacher_log_probs.shape} and {log_probs.shape}"
        )
    known, total = answered(log_probs), len(labels)
    if not known.any():
        return _failed(total, teacher_log_probs is not None)
    log_probs, labels = log_probs[known], labels[known]
    confidence, right = np.exp(log_probs.max(-1)), log_probs.argmax(-1) == labels
    result = {
        "accuracy": float(np.mean(right) * (len(labels) / total)),
        "expected_calibration_error": calibration_error(confidence, right),
        "nll": float(-np.mean(log_probs[np.arange(len(labels)), labels])),
    }
    if teacher_log_probs is not None:
        teacher = teacher_log_probs[known]
        both = answered(teacher)
        result |= dict.fromkeys(LIKENESS)
        if both.any():
            result |= _likeness(log_probs[both], teacher[both])
    if len(labels) < total:
        result["not_finite"] = total - len(labels)
    return result


def answered(log_probs):
    """Which rows of log-probabilities hold no NaN, an array `(examples,)`."""
    return ~np.isnan(log_probs).any(-1)


def is_finite(model: keras.Model) -> bool:
    """Whether all weights of a model are finite.

    Args:
        model: a `keras.Model`.

    Returns:
        `False` where one weight is NaN or infinite.

    Example:

    ```python
    report.is_finite(student)
    ```
    """
    values = (keras.ops.convert_to_numpy(v) for v in model.weights if "float" in str(v.dtype))
    return all(np.isfinite(np.asarray(value, "float64")).all() for value in values)


def _failed(rows, with_teacher):
    names = ["accuracy", "expected_calibration_error", "nll"]
    names += LIKENESS if with_teacher else ()
    said = {"failed": "No answer is finite.", "not_finite": rows}
    return {**dict.fromkeys(names), **said}


def _likeness(log_probs, teacher):
    agreement = keras.ops.convert_to_numpy(answers.agreement(teacher, log_probs))
    return {
        "agreement": float(np.mean(agreement)),
        "kl_to_teacher": float(np.mean(divergences(teacher, log_probs))),
    }


def reliability(log_probs: Any, labels: Any, bins: int = GROUPS) -> dict:
    """Accuracy against confidence, in groups with the same number of answers.

    Answers with the same confidence stay in one group, so a model that is sure of most answers has
    fewer groups.

    Args:
        log_probs: an array `(examples, classes)`.
        labels: integer classes, an array `(examples,)`.
        bins: how many groups at most, at least 1. Defaults to `10`.

    Returns:
        A dict of `confidence`, `accuracy` (means within each group) and `count`, of the rows
        without NaN.

    Example:

    ```python
    bins = report.reliability(*report.predictions(student, dataset), bins=5)
    bins["accuracy"], bins["confidence"]
    ```
    """
    known = answered(log_probs)
    log_probs, labels = log_probs[known], labels[known]
    return equal_counts(np.exp(log_probs.max(-1)), log_probs.argmax(-1) == labels, bins)


def divergences(teacher, student):
    """`sum_c p_T (log p_T - log p_S)` of each row of two arrays of log-probabilities."""
    return keras.ops.convert_to_numpy(answers.divergence(teacher, student))


def _predict(models, data):
    """Every model's log-probabilities from one pass over the data, and the labels."""
    outputs, labels = [[] for _ in models], []
    for batch in data:
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        for found, model in zip(outputs, models, strict=True):
            found.append(_output(model, x))
        labels.append(_classes(np.asarray(y), outputs[0][-1]))
    if not labels:
        raise ValueError("`data` must hold at least one batch. Received: none")
    return [_log_probs(found) for found in outputs], np.concatenate(labels)


def _output(model, x):
    if _backend.NAME != "tensorflow":  # batches of tf.data are TensorFlow's tensors
        x = keras.tree.map_structure(np.asarray, x)
    output = model.predict_on_batch(x) if isinstance(model, keras.Model) else model(x)
    if isinstance(output, (dict, list, tuple)) or len(output.shape) != 2 or output.shape[-1] < 2:
        received = keras.tree.map_structure(lambda t: tuple(t.shape), output)
        raise ValueError(
            f"A model must have one output of shape (batch, classes). Received: {received}"
        )
    return keras.ops.convert_to_numpy(output).astype("float64")


def _classes(y, output):
    """Integer labels of integer or one-hot ones."""
    classes = output.shape[-1]
    fits = y.ndim == 1 or (y.ndim == 2 and y.shape[-1] in (1, classes))
    found = keras.ops.convert_to_numpy(answers.class_ids(y, output)) if fits else y
    if not fits or (len(found) and not 0 <= found.min() <= found.max() < classes):
        raise ValueError(
            f"Labels must be one-hot, or integers in [0, {classes}). Received: shape "
            f"{y.shape}, from {y.min()} to {y.max()}"
        )
    return found


def _log_probs(batches):
    """Log-probabilities of logits, or of probabilities where the first batch shows such."""
    first, outputs = batches[0], np.concatenate(batches)
    if answers.are_probabilities(first):
        outputs = np.log(np.maximum(outputs, np.finfo("float32").tiny))
    shifted = outputs - outputs.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
