"""Measures of a regression."""

import numpy as np

from keras_distill.report.tasks import Numbers


def number_scores(values, true, teacher=None):
    """Returns the measures of numbers, or `None` for each if one answer is not finite.

    Args:
        values: a model's answers, an array `(examples, numbers)`.
        true: the targets, of the same shape.
        teacher: the teacher's answers. Defaults to `None`, without a comparison.

    Raises:
        ValueError: if all targets are the same.
    """
    task = Numbers(values)
    every = [values] if teacher is None else [values, teacher]
    finite = np.all([np.isfinite(each).all(-1) for each in every], axis=0)
    names = ["r2", "mean_absolute_error", "root_mean_square_error"]
    names += [] if teacher is None else ["distance_to_teacher"]
    if not finite.all():
        missing = int((~finite).sum())
        said = f"{missing} answers are not finite."
        return {**dict.fromkeys(names), "failed": said, "not_finite": missing}
    if not (true != true[:1]).any(0).all():
        raise ValueError(
            "R squared needs targets that differ from each other. Give more examples. "
            f"Received: {len(true)} equal ones"
        )
    weights = np.ones(len(values))
    found = task.measures(task.sums(values, true, weights).sum(0))
    if teacher is not None:
        found |= task.likenesses(task.likeness(values, teacher, weights).sum(0))
    return {name: float(value) for name, value in found.items()}
