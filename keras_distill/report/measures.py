"""Measures a model on labelled data, and its likeness to its teacher.

Everything here works on any Keras model with one output. A classifier has `(batch, classes)`,
logits or probabilities, or one unit for yes or no, `(batch, 1)`. With axes between these two it has
an answer for each token or pixel. A regression has `(batch, numbers)`.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_distill import _backend
from keras_distill.losses import answers
from keras_distill.report.calibration import GROUPS, calibration_error, equal_counts
from keras_distill.report.regression import number_scores
from keras_distill.report.tasks import Classes, Numbers, two_classes

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
        result = _summed([_judged(*each) for each in _answers(models, data)], teacher is not None)
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
    parts = [_judged(*each) for each in _answers([model], data)]
    sure, right = (np.concatenate([part[name] for part in parts])
                   for name in ("confidence", "right"))  # fmt: skip
    return equal_counts(sure, right)


def right_of_examples(model, data):
    """Returns how many answers of each example are right, and how many count, two arrays.

    An example has one answer, or one for each of its tokens or pixels.
    """
    right, owners, before = [], [], 0
    for (log_probs,), labels, examples, count in _answers([model], data, owners=True):
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
        parts = [*_answers(models, data)]
    else:
        parts = [([_numbers(model, x) for model in models], y) for x, y, _ in _unpacked(data)]
        parts = [(found, _targets(y, found[0])) for found, y in parts]
    outputs, labels = zip(*parts)
    return [np.concatenate(found) for found in zip(*outputs)], np.concatenate(labels)


def _answers(models, data, owners=False):
    """Yields `(log-probabilities of each model, labels)` of each batch, a row for each answer.

    With `owners` it also yields each row's place in the batch, and the size of the batch.
    """
    kinds, late = None, []
    for x, y, weights in _unpacked(data):
        found = [_output(model, x) for model in models]
        _check_alike(found)
        count, examples = len(y), np.arange(len(y))
        if found[0].ndim > 2:
            found, y, examples = answers.counted_rows(found, y, weights)
        part = _classes(y, found[0]), examples, count
        kinds = kinds or [answers.are_probabilities(each) for each in found]
        if any(each.shape[-1] == 1 for each in found):
            late.append((found, part))  # all values of a unit tell logits from probabilities
        else:
            logs = [_log_probs(each, kind) for each, kind in zip(found, kinds)]
            yield (logs, *part) if owners else (logs, part[0])
    ends = np.cumsum([len(labels) for _, (labels, *_) in late])[:-1]
    whole = [np.concatenate(each) for each in zip(*(found for found, _ in late))]
    split = [np.split(_log_probs(each, kind), ends) for each, kind in zip(whole, kinds)]
    for *logs, (_, part) in zip(*split, late):
        yield (logs, *part) if owners else (logs, part[0])


def _check_alike(outputs):
    shapes = [each.shape for each in outputs]
    if len({(*shape[:-1], max(shape[-1], 2)) for shape in shapes}) > 1:
        raise ValueError(
            "The teacher and the model must have the same classes. Received: outputs of shapes "
            f"{' and '.join(map(str, shapes))}"
        )


def _unpacked(data):
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


def _numbers(model, x):
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


def _targets(y, output):
    """Returns numbers in the output's shape."""
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
