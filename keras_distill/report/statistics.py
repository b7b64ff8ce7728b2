"""Statistics of differences: tests of pairs, intervals by resampling, and the Pareto front."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

CHUNK = 100  # resamples per step


def mcnemar(won: int, lost: int) -> float:
    """Returns the two-sided exact p-value of `won` against `lost` under a fair coin.

    `p = min(1, 2 * sum_{i <= min(won, lost)} C(n, i) / 2^n)` with `n = won + lost`.

    Args:
        won: the number of examples on which the first model is better, an integer of at least 0.
        lost: the number of examples on which the second model is better.

    Returns:
        A float in (0, 1].

    Example:

    ```python
    report.mcnemar(won=30, lost=10)
    ```

    Reference:
        - McNemar, 1947, Psychometrika 12
    """
    count = won + lost
    if not count:
        return 1.0
    logs = [math.lgamma(count + 1) - math.lgamma(i + 1) - math.lgamma(count - i + 1)
            - count * math.log(2) for i in range(min(won, lost) + 1)]  # fmt: skip
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def sign_flips(differences: Sequence[float], draws: int = 9999, seed: int = 0) -> float:
    """Returns the two-sided p-value of a mean of paired differences, under random signs.

    `p = (1 + #{draws: |mean of s_i d_i| >= |mean of d_i|}) / (1 + draws)` with random signs `s_i`.

    Args:
        differences: a number for each example, an array `(examples,)`.
        draws: how often to draw all signs, at least 1. Defaults to `9999`.
        seed: the seed of the draws. Defaults to `0`.

    Returns:
        A float in (0, 1].

    Example:

    ```python
    report.sign_flips([0.3, 0.1, 0.2, -0.1, 0.4])
    ```

    Reference:
        - Fisher, 1935, The Design of Experiments
    """
    differences, random = np.asarray(differences, "float64"), np.random.default_rng(seed)
    reached = 0
    least = abs(differences.sum()) * (1 - 1e-9)  # sums in another order differ in their last digit
    for start in range(0, draws, CHUNK):
        drawn = (min(CHUNK, draws - start), len(differences))
        sums = (2 * random.integers(0, 2, drawn) - 1) @ differences
        reached += int((np.abs(sums) >= least).sum())
    return (1 + reached) / (1 + draws)


def bootstrap(sums, value, resamples=1000, seed=0):
    """Returns a measure of resampled examples: its values on other data of the same kind.

    Args:
        sums: the sums of the measure, an array `(models, examples, k)`.
        value: a function from totals `(..., k)` to the measure `(...)`.
        resamples: how often to draw as many examples with replacement. Defaults to `1000`.
        seed: the seed of the draws, so that the same data give the same interval. Defaults to `0`.

    Returns:
        An array `(models, resamples)`. Each model sees the same draws.

    Reference:
        - Efron and Tibshirani, 1993, An Introduction to the Bootstrap
    """
    models, count, width = sums.shape
    flat = np.moveaxis(sums, 1, 0).reshape(count, models * width)
    random, found = np.random.default_rng(seed), []
    for start in range(0, resamples, CHUNK):
        drawn = min(CHUNK, resamples - start)
        weights = random.multinomial(count, np.full(count, 1 / count), size=drawn)
        found.append(value((weights @ flat).reshape(drawn, models, width)))
    return np.concatenate(found).T


def interval(values, level=0.95):
    """Returns `(low, high)`, which hold the middle `level` of the values; `None` if one is NaN.

    Args:
        values: an array `(resamples,)`.
        level: the share of the values inside, from 0 to 1. Defaults to `0.95`.
    """
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return (float(low), float(high)) if np.isfinite([low, high]).all() else (None, None)


def pareto(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the points `(cost, score)` that no point of lower or equal cost beats.

    Args:
        points: pairs of numbers; a higher score is better.

    Returns:
        A list of pairs, the cheapest first.

    Example:

    ```python
    report.pareto([(2, 5), (1, 3), (3, 4)])  # [(1, 3), (2, 5)]
    ```
    """
    front = []
    for cost, score in sorted(points, key=lambda each: (each[0], -each[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front
