"""Quality of models by their answers: measures, intervals, paired differences, classes."""

import numpy as np

from keras_distill.report.calibration import calibration_error, equal_counts
from keras_distill.report.statistics import bootstrap, interval, mcnemar


def quality(task, seeds, resamples):
    """Returns the measures of one model that was trained under some seeds.

    Args:
        task: the task that judges its answers.
        seeds: `Answers` of each seed's model.
        resamples: the `bootstrap` of these.

    Returns:
        A dict. `value` is the task's measure, the mean over the seeds. `low` and `high` hold 95% of
        its resamples. `by_seed` has the value of each seed, `measures` the means of all measures.
        `likeness`, `calibration` and `classes` have the results for these.
    """
    values = [float(task.value(each.sums.sum(0))) for each in seeds]
    low, high = interval(resamples.mean(0))
    found = {"value": float(np.mean(values)), "low": low, "high": high, "by_seed": values,
             "examples": len(seeds[0].sums)}  # fmt: skip
    found["measures"] = _means([task.measures(each.sums.sum(0)) for each in seeds])
    if all(each.likeness is not None for each in seeds):
        found["likeness"] = _means([task.likenesses(each.likeness.sum(0)) for each in seeds])
    if seeds[0].rows is not None:
        sure, right, label = (np.concatenate(each) for each in zip(*(s.rows for s in seeds)))
        errors = [calibration_error(*each.rows[:2]) for each in seeds if len(each.rows[0])]
        error = float(np.mean(errors)) if errors else None
        found["measures"]["expected_calibration_error"] = error
        found["calibration"] = equal_counts(sure, right)
        if task.classes <= 1000:  # a vocabulary has too many classes to show
            found["classes"] = _by_class(right, label, task.classes, len(seeds))
    return found


def difference(task, ours, others, resamples, theirs):
    """Returns how much better a model is than another, by pairs of equal examples and seeds.

    Args:
        task: the task that judges both.
        ours: `Answers` of each seed's model.
        others: `Answers` of each seed's other model. Surplus seeds are left out.
        resamples: the `bootstrap` of ours.
        theirs: the `bootstrap` of the others.

    Returns:
        A dict. `value` is ours less theirs. `low` and `high` hold 95% of its resamples. `won` and
        `lost` count the examples of all seeds that one model answers better than the other, and `p`
        is McNemar's exact test of these.
    """
    pairs = list(zip(ours, others))
    values = [task.value(a.sums.sum(0)) - task.value(b.sums.sum(0)) for a, b in pairs]
    low, high = interval(resamples[: len(pairs)].mean(0) - theirs[: len(pairs)].mean(0))
    scores = [(task.score(a.sums), task.score(b.sums)) for a, b in pairs]
    won, lost = (int(sum((x > y).sum() for x, y in each))
                 for each in (scores, [pair[::-1] for pair in scores]))  # fmt: skip
    return {"value": float(np.mean(values)), "low": low, "high": high, "won": won, "lost": lost,
            "p": mcnemar(won, lost)}  # fmt: skip


def resampled(task, seeds):
    """Returns the `bootstrap` of the models of all seeds, an array `(seeds, resamples)`."""
    return bootstrap(np.stack([each.sums for each in seeds]), task.value)


def _means(rows):
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def _by_class(right, label, classes, seeds):
    count = np.bincount(label, minlength=classes)
    hits = np.bincount(label, right, minlength=classes)
    return {"accuracy": [h / n if n else None for h, n in zip(hits.tolist(), count.tolist())],
            "count": (count // seeds).tolist()}  # fmt: skip
