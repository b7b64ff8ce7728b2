"""Measures a model on labelled data, and its likeness to its teacher.

Everything here works on any Keras model with one output. A classifier has `(batch, classes)`,
logits or probabilities, or one unit for yes or no, `(batch, 1)`. With axes between these two it has
an answer for each token or pixel. A regression has `(batch, numbers)`.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_distill.losses import answers
from keras_distill.report.calibration import GROUPS, calibration_error, equal_counts
from keras_distill.report.outputs import answers_of, numbers_of, targets_of, unpacked
from keras_distill.report.regression import number_scores
from keras_distill.report.tasks import Classes, Numbers

LIKENESS = ("agreement", "kl_to_teacher")
MEASURED = {task.name: task for task in (Classes, Numbers)}  # what a run is judged by


def measure(
    model: keras.Model,
    data: Any,
    teacher: Callable[[Any], Any] | None = None,
    task: str = "classes",
) -> dict:
    """Measures a model on labelled data, and its agreement with a teacher.

    `agreement = mean(argmax p_T == argmax p_S)`,
    `kl_to_teacher = mean(sum_c p_T (log p_T - log p_S))` at temperature 1,
    `expected_calibration_error = sum_b n_b / n |accuracy_b - confidence_b|` over 15 equal bins.
    For numbers, `r2 = 1 - sum (y - f)^2 / sum (y - mean y)^2`, the mean over an example's numbers.

    Args:
        model: a `keras.Model` whose output is `(batch, classes)`, logits or probabilities, or
            `(batch, 1)` for yes or no. With axes between these two, such as
            `(batch, tokens, classes)`, every token or pixel counts as an example. A regression has
            `(batch, numbers)`.
        data: batches of `(x, y)`, `y` integer classes or one-hot, or numbers. A third part, the
            sample weights, leaves out the tokens or pixels with a weight of 0.
        teacher: a model, or a function of `x`, with the same classes. Defaults to `None`, without
            measures of likeness.
        task: `"classes"`, or `"numbers"` for a regression. Defaults to `"classes"`.

    Returns:
        A dict. For classes it has `accuracy` in [0, 1], `expected_calibration_error`, `nll`,
        `parameters` and, with a teacher, `agreement` in [0, 1] and `kl_to_teacher`. An example
        whose answer is not finite counts as wrong and is left out of the other measures;
        `not_finite` counts these examples. If no answer is finite, each measure is `None`, and
        `failed` says so. For numbers it has `r2`, `mean_absolute_error`, `root_mean_square_error`,
        `parameters` and, with a teacher, `distance_to_teacher`. If one answer is not finite, each
        of these measures is `None`.

    Raises:
        ValueError: if there are no data, the task is unknown, outputs and labels do not fit, or all
            numbers to learn are the same.

    Example:

    ```python
    report.measure(student, dataset, teacher)["agreement"]
    ```
    """
    models = [model] if teacher is None else [model, teacher]
    if task == "classes":
        parts = [_judged(logs, labels) for logs, labels, *_ in answers_of(models, data)]
        result = _summed(parts, teacher is not None)
    else:
        found, true = _predict(models, data, task)
        result = number_scores(found[0], true, *found[1:])
    return {**result, "parameters": model.count_params()}


def predictions(model: keras.Model, data: Any, task: str = "classes") -> tuple:
    """Returns the log-probabilities and integer labels of a model over its data, in their order.

    Args:
        model: a `keras.Model`, as in `measure`.
        data: batches of `(x, y)`. To compare several passes, give the same order at each.
        task: as in `measure`. Defaults to `"classes"`.

    Returns:
        An array `(examples, classes)` and an array `(examples,)`, with a row for each token or
        pixel as in `measure`. One unit gives two classes. For numbers, two arrays
        `(examples, numbers)`, the answers and the targets.

    Raises:
        ValueError: for the reasons of `measure`.

    Example:

    ```python
    log_probs, labels = report.predictions(student, dataset)
    ```
    """
    (found,), true = _predict([model], data, task)
    return found, true


def scores(log_probs: Any, labels: Any, teacher_log_probs: Any = None) -> dict:
    """Returns the measures of `measure`, except `parameters`, from `predictions`.

    Args:
        log_probs: an array `(examples, classes)`.
        labels: integer classes, an array `(examples,)`.
        teacher_log_probs: the teacher's, of the same shape. Defaults to `None`, without a teacher.

    Returns:
        A dict, as `measure` returns it.

    Raises:
        ValueError: if the teacher has other classes.

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
    theirs = [] if teacher_log_probs is None else [teacher_log_probs]
    return _summed([_judged([log_probs, *theirs], labels)], bool(theirs))


def _judged(log_probs, labels):
    """Returns what is known of each answer, `{name: array}`, for a model and perhaps its teacher.

    The arrays have no rows for answers that are not finite. `total` counts all.
    """
    ours, known = log_probs[0], answered(log_probs[0])
    ours, right_labels = ours[known], labels[known]
    found = {"total": np.asarray([len(labels)]), "confidence": np.exp(ours.max(-1)),
             "right": ours.argmax(-1) == right_labels,
             "nll": -ours[np.arange(len(ours)), right_labels]}  # fmt: skip
    for teacher in log_probs[1:]:
        both = answered(teacher[known])
        found |= _likeness(ours[both], teacher[known][both])
    return found


def _summed(parts, with_teacher):
    """Returns the measures of all answers, from `_judged` of parts of them."""
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    right, total = found["right"], int(found["total"].sum())
    if not len(right):
        return _failed(total, with_teacher)
    result = {
        "accuracy": float(np.mean(right) * (len(right) / total)),
        "expected_calibration_error": calibration_error(found["confidence"], right),
        "nll": float(np.mean(found["nll"])),
    }
    for name in LIKENESS if with_teacher else ():
        result[name] = float(np.mean(found[name])) if len(found[name]) else None
    if len(right) < total:
        result["not_finite"] = total - len(right)
    return result


def answered(log_probs):
    """Returns which rows of log-probabilities hold no NaN, an array `(examples,)`."""
    return ~np.isnan(log_probs).any(-1)


def is_finite(model: keras.Model) -> bool:
    """Returns whether all weights of a model are finite.

    Args:
        model: a `keras.Model`.

    Returns:
        `False` if one weight is NaN or infinite.

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
    if not len(log_probs):
        return dict.fromkeys(LIKENESS, np.zeros(0))
    agreement = keras.ops.convert_to_numpy(answers.agreement(teacher, log_probs))
    return {"agreement": agreement, "kl_to_teacher": divergences(teacher, log_probs)}


def reliability(log_probs: Any, labels: Any, bins: int = GROUPS) -> dict:
    """Returns the accuracy against confidence, in groups with the same number of answers.

    Answers with the same confidence stay in one group, so a model that is sure of most answers has
    fewer groups.

    Args:
        log_probs: an array `(examples, classes)`.
        labels: integer classes, an array `(examples,)`.
        bins: the maximum number of groups, at least 1. Defaults to `10`.

    Returns:
        A dict of `confidence`, `accuracy` (means within each group) and `count`, of the rows
        without NaN.

    Example:

    ```python
    bins = report.reliability(*report.predictions(student, dataset), bins=5)
    bins["accuracy"], bins["confidence"]
    ```
    """
    found = _judged([log_probs], labels)
    return equal_counts(found["confidence"], found["right"], bins)


def reliability_of(model, data):
    """Returns `reliability` of a model over its data, without keeping its outputs."""
    parts = [_judged(logs, labels) for logs, labels, *_ in answers_of([model], data)]
    sure, right = (np.concatenate([part[name] for part in parts])
                   for name in ("confidence", "right"))  # fmt: skip
    return equal_counts(sure, right)


def right_of_examples(model, data):
    """Returns how many answers of each example are right, and how many count, two arrays.

    An example has one answer, or one for each of its tokens or pixels.
    """
    right, owners, before = [], [], 0
    for (log_probs,), labels, examples, count in answers_of([model], data):
        right.append((log_probs.argmax(-1) == labels) & answered(log_probs))
        owners.append(examples + before)
        before += count
    owners = np.concatenate(owners)
    return tuple(np.bincount(owners, each, minlength=before).astype("float64")
                 for each in (np.concatenate(right), np.ones(len(owners))))  # fmt: skip


def divergences(teacher, student):
    """Returns `sum_c p_T (log p_T - log p_S)` of each row of two arrays of log-probabilities."""
    return keras.ops.convert_to_numpy(answers.divergence(teacher, student))


def _predict(models, data, task):
    """Returns every model's outputs in one pass over the data, and the targets."""
    if task not in MEASURED:
        raise ValueError(f"`task` must be one of {', '.join(MEASURED)}. Received: task={task!r}")
    if task == "classes":
        parts = [(logs, labels) for logs, labels, *_ in answers_of(models, data)]
    else:
        parts = [([numbers_of(model, x) for model in models], y) for x, y, _ in unpacked(data)]
        parts = [(found, targets_of(y, found[0])) for found, y in parts]
    outputs, labels = zip(*parts)
    return [np.concatenate(found) for found in zip(*outputs)], np.concatenate(labels)
