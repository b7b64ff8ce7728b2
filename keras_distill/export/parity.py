"""Compares an exported model's answers with the student's, and judges the difference."""

import typing

import numpy as np

from keras_distill.export import reload
from keras_distill.export.saved_model import by_name

FLOAT = 1e-5  # the largest difference of a float format, for outputs of at most 1


class Parity(typing.NamedTuple):
    """The result of comparing an exported model with the student.

    Args:
        difference: The largest absolute difference over all outputs. NaN if one of them has NaN.
        agreement: The share of answers, from 0 to 1, in which both models agree: the most probable
            class of an example or token or, if the targets are zeros and ones for each unit, yes or
            no. `None` if no output has such answers.
        metric: The metric on the targets, `"accuracy"` (a share) or `"mean_absolute_error"`.
            `None` without targets.
        student: The student's value of the metric, or `None`.
        exported: The exported model's value of the metric, or `None`.
        distance: For outputs without such answers, the mean absolute difference as a share of the
            standard deviation of the student's output, else `None`.

    Example:

    ```python
    exported, = export.write(student, "served", ["serving"], inputs=x, targets=y)
    exported.parity.agreement, exported.parity.student, exported.parity.exported
    ```
    """

    difference: float
    agreement: float | None = None
    metric: str | None = None
    student: float | None = None
    exported: float | None = None
    distance: float | None = None


def tolerance(expected):
    """Returns the largest difference for a float format: 1e-5, or more for larger outputs.

    Args:
        expected: The student's outputs, an array or a dict of arrays.
    """
    arrays = expected.values() if isinstance(expected, dict) else [expected]
    return FLOAT * max(1.0, *(float(np.max(np.abs(array), initial=0.0)) for array in arrays))


def compared(outputs, expected, targets=None):
    """Returns a `Parity` of an exported model's outputs.

    Args:
        outputs: A dict of arrays by output name.
        expected: The student's outputs, from `reload.answers`.
        targets: The true answers for the only output, or `None`: class ids, one-hot classes, zeros
            and ones for each unit, or numbers.
    """
    expected = by_name(expected)
    difference = reload.largest_difference(outputs, expected)
    pairs = [
        (outputs[name], expected[name] if isinstance(expected, dict) else expected)
        for name in outputs
    ]
    targets = None if targets is None or len(pairs) != 1 else np.asarray(targets)
    same, distances = [], []
    for found, right in pairs:
        answers, true = _answers(right, targets)
        if answers is not None:
            same.append((answers(found) == answers(right)).ravel())
        elif right.dtype.kind == "f" and np.std(right) > 0:
            distances.append(float(np.mean(np.abs(found - right)) / np.std(right)))
    agreement = float(np.mean(np.concatenate(same))) if same else None
    distance = max(distances, default=None)
    if targets is None:
        return Parity(difference, agreement, distance=distance)
    if true is not None:
        shares = [float(np.mean(answers(each) == true)) for each in (right, found)]
        return Parity(difference, agreement, "accuracy", *shares)
    errors = [float(np.mean(np.abs(each - targets.reshape(each.shape)))) for each in (right, found)]
    return Parity(difference, agreement, "mean_absolute_error", *errors, distance)


def judged(parity, exact, allowed, agreement):
    """Returns why an exported model must not be used, or `None` if it may be.

    Args:
        parity: A `Parity`.
        exact: Whether the format is a float format, which answers as the student does.
        allowed: The largest difference of a float format.
        agreement: The smallest agreement of another format. The largest distance is what it lacks
            to 1.
    """
    if not np.isfinite(parity.difference):
        return "its answers hold NaN or infinity where the student's do not."
    if exact and parity.difference > allowed:
        return (
            f"its answers differ from the student's by {parity.difference:.1e}. At most "
            f"{allowed:.1e} is allowed."
        )
    if not exact and parity.agreement is not None and parity.agreement < agreement:
        return (
            f"it agrees with the student on {parity.agreement:.1%} of the answers. At least "
            f"{agreement:.1%} is required."
        )
    if not exact and parity.distance is not None and parity.distance > 1 - agreement:
        return (
            f"its answers are on average {parity.distance:.1%} of their standard deviation away "
            f"from the student's. At most {1 - agreement:.1%} is allowed."
        )
    return None


def _has_classes(array):
    return array.ndim > 1 and array.shape[-1] > 1 and array.dtype.kind == "f"


def _answers(outputs, targets):
    """Returns a function from outputs to answers, and the true answers, each or `None`."""
    classes = _has_classes(outputs)
    if targets is None:
        return (_best if classes else None), None
    if targets.size == outputs.size:
        rows = targets.reshape(outputs.shape)
        if classes and (rows >= 0).all() and np.allclose(rows.sum(-1), 1):
            return _best, rows.argmax(-1)
        if not np.isin(rows, (0, 1)).all():
            return None, None  # numbers
        half = 0.5 if ((outputs >= 0) & (outputs <= 1)).all() else 0.0  # of logits
        return lambda outputs: outputs >= half, rows == 1
    ids = classes and targets.size == outputs[..., 0].size
    return (_best if classes else None), (targets.reshape(outputs.shape[:-1]) if ids else None)


def _best(outputs):
    return outputs.argmax(-1)
