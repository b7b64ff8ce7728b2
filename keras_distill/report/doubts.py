"""Finds examples on which a student has learned its teacher's doubt."""

import math
from typing import Any

import numpy as np

from keras_distill.report.measures import divergences


def doubts(images: Any, labels: Any, log_probs: Any, count: int = 6) -> list[dict]:
    """Returns images on which the teacher is unsure and the distilled student is closer to it.

    They are ordered by `H(p_T)`, among those with `KL(p_T || distilled) < KL(p_T || alone)`.

    Args:
        images: an array `(n, H, W)` or `(n, H, W, C)` with 1, 3 or 4 channels. For other arrays the
            result is empty.
        labels: integer classes, an array `(n,)`.
        log_probs: a dict of arrays `(n, classes)` by arm, with `teacher`, `alone` and `distilled`.
        count: the maximum number of images. Defaults to `6`.

    Returns:
        A list of dicts of `image`, `label` and `probabilities`, as `write` takes it.

    Raises:
        ValueError: if one of the three arms is missing.

    Example:

    ```python
    arms = {"teacher": teacher, "alone": student, "distilled": student}
    log_probs = {arm: report.predictions(model, dataset)[0] for arm, model in arms.items()}
    report.doubts(x, y, log_probs)  # none here: both students are the same
    ```
    """
    shape = getattr(images, "shape", ())
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[-1] not in (1, 3, 4)):
        return []
    missing = {"teacher", "alone", "distilled"} - set(log_probs)
    if missing:
        raise ValueError(
            "`log_probs` must hold 'teacher', 'alone' and 'distilled'. "
            f"Received: {sorted(log_probs)}"
        )
    teacher = log_probs["teacher"]
    entropy = -np.sum(np.exp(teacher) * np.maximum(teacher, -1e30), -1)  # 0 log 0 = 0
    nearer = divergences(teacher, log_probs["distilled"]) < divergences(teacher, log_probs["alone"])
    order = [i for i in np.argsort(-entropy, kind="stable") if nearer[i]][:count]
    shown = scaled(images)
    return [
        {
            "image": shown(images[i]),
            "label": int(labels[i]),
            "probabilities": {arm: np.exp(p[i]).tolist() for arm, p in log_probs.items()},
        }
        for i in order
    ]


def scaled(images):
    """Returns a function that scales an image to [0, 1] by all images, and to at most 96 pixels."""
    low, high = float(np.nanmin(images)), float(np.nanmax(images))
    step = max(1, math.ceil(max(images.shape[1:3]) / 96))

    def scaled(image):
        pixels = (np.asarray(image, float)[::step, ::step] - low) / ((high - low) or 1)
        return pixels.round(3).tolist()

    return scaled
