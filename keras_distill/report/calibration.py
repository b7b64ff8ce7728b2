"""Calibration: how often a model is right at each level of confidence."""

import numpy as np

WIDTHS = 15
GROUPS = 10


def equal_counts(confidence, right, groups=GROUPS):
    """Splits answers into groups of equal size, from the least to the most confident.

    Answers with equal confidence stay in one group, so a model that is sure of most answers has
    fewer groups.

    Args:
        confidence: an array `(answers,)` in [0, 1].
        right: whether each answer is right, a boolean array `(answers,)`.
        groups: the maximum number of groups, at least 1. Defaults to `10`.

    Returns:
        A dict of `confidence`, `accuracy` (means within each group) and `count`.
    """
    order = np.argsort(confidence, kind="stable")
    confidence, right = confidence[order], right[order]
    ends = np.linspace(0, len(order), min(groups, len(order)) + 1).round().astype(int)[1:]
    ends = np.unique(np.searchsorted(confidence, confidence[ends - 1], side="right"))
    parts = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends)]
    return {
        "confidence": [float(confidence[part].mean()) for part in parts],
        "accuracy": [float(right[part].mean()) for part in parts],
        "count": [int(part.stop - part.start) for part in parts],
    }


def calibration_error(confidence, right, bins=WIDTHS):
    """Returns `sum_b n_b / n |accuracy_b - confidence_b|` over bins of equal width.

    Args:
        confidence: an array `(answers,)` in [0, 1].
        right: whether each answer is right, a boolean array `(answers,)`.
        bins: the number of bins, at least 1. Defaults to `15`.

    Reference:
        - [Guo et al., 2017](https://arxiv.org/abs/1706.04599)
    """
    index = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(int)
    sure, true = (np.bincount(index, each, bins) for each in (confidence, right))
    return float(np.abs(true - sure).sum() / len(confidence))
