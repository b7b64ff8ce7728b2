"""What a search found: a table, a plot, and the best setting as an experiment's file."""

import os
import pprint

import numpy as np

from keras_distill import _files
from keras_distill._messages import say
from keras_distill.experiments.file import placed
from keras_distill.experiments.run_folder import write_json
from keras_distill.experiments.tuning.settings import shown
from keras_distill.report import page as report_page

_SERIES = (("alone", "alone", -0.12, "#d97706"), ("distilled", "accuracies", 0.12, "#2563eb"))


def row(setting, distilled, alone, base):
    """A leader's validation accuracies, and those of the student alone under the same seeds.

    Args:
        setting: what was chosen.
        distilled: the records of the trials, one for each seed.
        alone: the same of the student alone.
        base: its part of the setting.

    Returns:
        A dict as `ranking.json` holds it. There is no gain where a training of either has failed.
    """
    accuracies, others = ([each["accuracy"] for each in rows] for rows in (distilled, alone))
    gains = np.subtract(accuracies, others)
    failed = sum("failed" in each for each in (*distilled, *alone))
    many = len(gains) > 1
    found = {
        "setting": setting,
        "accuracies": accuracies,
        "mean": float(np.mean(accuracies)),
        "deviation": float(np.std(accuracies, ddof=1)) if many else None,
        "alone": others,
        "alone_setting": base,
        "failed": failed,
        "gain": None if failed else float(gains.mean()),
        "error": float(gains.std(ddof=1) / np.sqrt(len(gains))) if many and not failed else None,
    }
    return found


def table(rows):
    """The ranking in lines: percent on the validation split, gains in points."""
    lines = ["| setting | accuracy % | student alone % | gain, points |", "|---|---|---|---|"]
    for each in rows:
        alone = f"{100 * np.mean(each['alone']):.2f}"
        lines.append(
            f"| {shown(each['setting'])} | {_spread(each['mean'], each['deviation'])} | {alone} "
            f"| {_gain(each)} |"
        )
    return "\n".join(lines)


def _gain(found):
    if found["failed"]:
        return f"none, {found['failed']} of {2 * len(found['alone'])} trainings failed"
    return ("+" if found["gain"] >= 0 else "") + _spread(found["gain"], found["error"])


def _spread(value, spread):
    return f"{100 * value:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")


def verdict(rows):
    """Whether the best is better than the student alone, in a sentence."""
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


def write(folder, rows, stages, *, file, options, command):
    """Prints the ranking and writes it, its plot and the winner's file."""
    said = f"{table(rows)}\n\n{verdict(rows)}"
    say("\nValidation accuracy, mean ± standard deviation over "
        f"{len(rows[0]['accuracies'])} seeds. A gain is the mean difference between a distilled "
        "student and the student alone of the same seed, ± its standard error."
        f"\n\n{said}")  # fmt: skip
    _files.write(folder / "winner.py", _winner(folder, rows, said, file, options, command))
    # who finds it finds the winner whole
    write_json(folder / "ranking.json", {"rows": rows, "search": stages, "verdict": verdict(rows)})
    try:
        _plot(folder / "ranking.png", rows)
    except Exception as error:  # matplotlib's, of whatever kind: a picture is not the result
        say(f"ranking.png could not be drawn. {error}")
    say("\nTo train the best setting, run python -m keras_distill train "
        f"--experiment={folder / 'winner.py'} --out=DIR")  # fmt: skip


def _winner(folder, rows, said, file, options, command):
    """The text of an experiment's file; a path in it is relative to that file."""
    place = os.path.relpath(os.path.abspath(file), os.path.abspath(folder))
    given = {name: placed(name, value) for name, value in options.items()}
    command, said = (text.replace("\\", "\\\\").replace('"', "'") for text in (command, said))
    return f'''"""The best setting that `keras_distill tune` found, by the validation split.

    {command}

{said}
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


def _plot(path, rows):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.5 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, each in enumerate(reversed(rows)):
        for name, key, height, color in _SERIES:
            percent = 100 * np.asarray(each[key])
            label = name if place == 0 else None
            axes.plot(percent, [place + height] * len(percent), "o", color=color, alpha=0.5)
            axes.plot(percent.mean(), place + height, "|", color=color, ms=16, mew=3, label=label)
    names = [report_page.as_text(shown(each["setting"])) for each in reversed(rows)]
    axes.set_yticks(range(len(rows)), names)
    axes.set_xlabel("validation accuracy, % (a dot a seed, a bar their mean)")
    axes.legend()
    with _files.whole(path) as part:
        figure.savefig(part, format="png", dpi=120)
