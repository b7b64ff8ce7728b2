"""The results of a search: a table, a plot, and the best setting as an experiment's file."""

import os
import pprint

import numpy as np

from keras_distill import _files
from keras_distill._messages import say
from keras_distill.experiments.file import placed
from keras_distill.experiments.run_folder import write_json
from keras_distill.experiments.tuning.settings import shown
from keras_distill.report import page as report_page
from keras_distill.report import tables
from keras_distill.report.tasks import Classes

_SERIES = (("alone", "alone", -0.12, "#d97706"), ("distilled", "scores", 0.12, "#2563eb"))


def row(setting, distilled, alone, base):
    """Returns a leader's validation scores, and those of the student alone under the same seeds.

    Args:
        setting: the chosen setting.
        distilled: the records of the trials, one for each seed.
        alone: the records of the student alone.
        base: the part of the setting that the student alone has.

    Returns:
        A dict as in `ranking.json`. Without a gain if one of the trainings has failed.
    """
    scores, others = ([each["score"] for each in rows] for rows in (distilled, alone))
    gains = np.subtract(scores, others)
    failed = sum("failed" in each for each in (*distilled, *alone))
    many = len(gains) > 1
    found = {
        "setting": setting,
        "scores": scores,
        "mean": float(np.mean(scores)),
        "deviation": float(np.std(scores, ddof=1)) if many else None,
        "alone": others,
        "alone_setting": base,
        "failed": failed,
        "gain": None if failed else float(gains.mean()),
        "error": float(gains.std(ddof=1) / np.sqrt(len(gains))) if many and not failed else None,
    }
    return found


def table(rows, task=Classes):
    """Returns the ranking as text: percent and points on the validation split, or R squared."""
    heads = (f"{task.heading} | student alone{' %' if task.scale == 100 else ''} | "
             f"gain{', points' if task.scale == 100 else ''}")  # fmt: skip
    lines = [f"| setting | {heads} |", "|---|---|---|---|"]
    for each in rows:
        mean = _spread(each["mean"], each["deviation"], task)
        alone = tables.plain(np.mean(each["alone"]), task.scale)
        lines.append(f"| {shown(each['setting'])} | {mean} | {alone} | {_gain(each, task)} |")
    return "\n".join(lines)


def name_of(task):
    """Returns the name of a task's measure for a sentence."""
    return "accuracy" if task.scale == 100 else task.heading


def said(score, task):
    """Returns a score as text for a sentence."""
    value = tables.plain(score, task.scale)
    return f"{value}%" if task.scale == 100 else f"{task.heading} {value}"


def _gain(found, task):
    if found["failed"]:
        return f"none, {found['failed']} of {2 * len(found['alone'])} trainings failed"
    return ("+" if found["gain"] >= 0 else "") + _spread(found["gain"], found["error"], task)


def _spread(value, spread, task):
    text = tables.plain(value, task.scale)
    return text if spread is None else f"{text} ± {tables.plain(spread, task.scale)}"


def verdict(rows):
    """Says in a sentence whether the best setting is better than the student alone."""
    best = rows[0]
    if best["failed"]:
        return (
            "The gain is unknown, because trainings of the best setting, or of the student alone, "
            "failed."
        )
    if best["gain"] <= 0:
        return "No setting beat the student alone. Train for more epochs, or try other settings."
    if best["error"] is None:
        return "The best gain was measured with one seed, so it may be chance. Give more repeats."
    if best["gain"] < 2 * best["error"]:
        return (
            "The best gain is less than two standard errors, so it may be chance. Give more "
            "repeats."
        )
    return "The best gain is more than two standard errors."


def write(folder, rows, stages, *, file, options, command, task=Classes):
    """Prints the ranking and writes it, its plot and the winner's file."""
    told = f"{table(rows, task)}\n\n{verdict(rows)}"
    say(f"\nValidation {name_of(task)}, mean ± standard deviation over "
        f"{len(rows[0]['scores'])} seeds. A gain is the mean difference between a distilled "
        "student and the student alone of the same seed, ± its standard error."
        f"\n\n{told}")  # fmt: skip
    _files.write(folder / "winner.py", _winner(folder, rows, told, file, options, command))
    # the winner must be complete when somebody finds it
    write_json(folder / "ranking.json", {"rows": rows, "search": stages, "verdict": verdict(rows)})
    try:
        _plot(folder / "ranking.png", rows, task)
    except Exception as error:  # matplotlib's, of any class: the result does not need a picture
        say(f"ranking.png could not be drawn. {error}")
    say("\nTo train the best setting, run python -m keras_distill train "
        f"--experiment={folder / 'winner.py'} --out=DIR")  # fmt: skip


def _winner(folder, rows, told, file, options, command):
    """Returns the text of an experiment's file; its paths are relative to that file."""
    place = os.path.relpath(os.path.abspath(file), os.path.abspath(folder))
    given = {name: placed(name, value) for name, value in options.items()}
    command, told = (text.replace("\\", "\\\\").replace('"', "'") for text in (command, told))
    return f'''"""The best setting that `keras_distill tune` found, by the validation split.

    {command}

{told}
"""

import pathlib

from keras_distill.experiments.tuning import chosen

FOLDER = pathlib.Path(__file__).parent.resolve()
FILE = FOLDER / {place!r}
TEACHER = FOLDER / "arms" / "teacher.keras"  # None: the experiment trains its own
SETTING = {pprint.pformat(rows[0]["setting"], sort_dicts=False)}
OPTIONS = {pprint.pformat(given, sort_dicts=False)}


def experiment(**options):
    return chosen(FILE, SETTING, trained_teacher=TEACHER, trained_with=OPTIONS, **options)
'''


def _plot(path, rows, task):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.5 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, each in enumerate(reversed(rows)):
        for name, key, height, color in _SERIES:
            values = task.scale * np.asarray(each[key])
            label = name if place == 0 else None
            axes.plot(values, [place + height] * len(values), "o", color=color, alpha=0.5)
            axes.plot(values.mean(), place + height, "|", color=color, ms=16, mew=3, label=label)
    names = [report_page.as_text(shown(each["setting"])) for each in reversed(rows)]
    axes.set_yticks(range(len(rows)), names)
    axes.set_xlabel(f"validation {task.heading} (a dot per seed, a bar for the mean)")
    axes.legend()
    with _files.whole(path) as part:
        figure.savefig(part, format="png", dpi=120)
