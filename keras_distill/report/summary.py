"""Summarizes arms: means over seeds, a table, and the files of a report."""

import json
import os
from os import PathLike

import numpy as np

from keras_distill import _files
from keras_distill.report import page as report_page
from keras_distill.report.headline import task_in
from keras_distill.report.tasks import Numbers

# A column: its heading, the measure, the factor to its unit, decimals, whether to show its spread.
_OF_CLASSES = (
    ("accuracy %", "accuracy", 100, 2, True),
    ("agreement %", "agreement", 100, 2, True),
    ("KL to teacher", "kl_to_teacher", 1, 4, True),
    ("ECE", "expected_calibration_error", 1, 4, True),
)
_OF_NUMBERS = (
    ("R²", "r2", 1, 4, True),
    ("mean absolute error", "mean_absolute_error", 1, 4, True),
    ("root mean square error", "root_mean_square_error", 1, 4, True),
    ("distance to teacher", "distance_to_teacher", 1, 4, True),
)
_COSTS = (
    ("parameters", "parameters", 1, 0, False),
    ("size kB", "size_bytes", 1e-3, 1, False),
    ("median ms", "median_ms", 1, 3, False),
    ("p99 ms", "p99_ms", 1, 3, False),
)


def summarize(rows: list[dict]) -> dict:
    """Returns means and sample deviations over seeds.

    Args:
        rows: a list of dicts of numbers, one for each seed. `None` is left out. A row with `failed`
            belongs to a training that failed.

    Returns:
        `{measure: {"mean": ..., "std": ..., "n": ...}}`. `std` is `None` for one seed. If trainings
        failed, `failed` has their number as its mean.

    Example:

    ```python
    report.summarize([{"accuracy": 0.90}, {"accuracy": 0.92}])["accuracy"]["mean"]  # 0.91
    ```
    """
    failed = sum("failed" in row for row in rows)
    rows = [{key: v for key, v in row.items() if key != "failed"} for row in rows]
    found = {key: [r[key] for r in rows if r.get(key) is not None] for row in rows for key in row}
    found |= {"failed": [failed]} if failed else {}
    return {
        key: {
            "mean": float(np.mean(values)),
            "n": len(values),
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        }
        for key, values in found.items()
        if values
    }


def summaries(results: dict) -> dict:
    """Returns the summary of each arm of `write`'s results, its latency included.

    Args:
        results: a dict as `write` takes it.

    Returns:
        `{arm: summary}`, with summaries as `summarize` returns them.

    Example:

    ```python
    seeds = [{"accuracy": 0.90}, {"accuracy": 0.92}]
    report.summaries({"arms": {"alone": {"seeds": seeds}}})["alone"]["accuracy"]["mean"]  # 0.91
    ```
    """
    timed = results.get("latency") or {}
    return {
        arm: {**summarize(entry["seeds"]), **summarize([timed.get(arm, {})])}
        for arm, entry in results["arms"].items()
    }


def table(arms: dict) -> str:
    """Returns an aligned text table, one row for each arm.

    Args:
        arms: `{arm: summary}`, as `summaries` returns it.

    Returns:
        A string. A missing number is "-".

    Example:

    ```python
    seeds = [{"accuracy": 0.90}, {"accuracy": 0.92}]
    print(report.table(report.summaries({"arms": {"alone": {"seeds": seeds}}})))
    ```
    """
    rows = [("", *_heads(arms)), *_cells(arms)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            c.rjust(w) if i else c.ljust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def write(folder: str | PathLike[str], results: dict) -> str:
    """Writes `report.json` and a self-contained `report.html` into a folder.

    Args:
        folder: the folder to write. It is made if needed.
        results: a dict; all but `arms` may be missing:
            `name`, `command`: strings; `settings`: a dict; `seconds`: a float;
            `arms`: `{"teacher" | "alone" | "distilled": {"seeds": [a dict of `measure`, with
            `size_bytes` if known, ...], "history": [`History.history` of each seed, ...]}}`;
            `latency`: as `latency` returns; `reliability`: `{arm: as reliability returns}`;
            `doubts`: as `doubts` returns; `classes`: the classes' names.

    Returns:
        The path of `report.html`.

    Raises:
        ValueError: if `results` have no arms.
        ImportError: if matplotlib is not installed. `report.json` is written before.

    Example:

    ```python
    arms = {
        "teacher": {"seeds": [report.measure(teacher, dataset)], "history": [{}]},
        "alone": {"seeds": [report.measure(student, dataset, teacher)], "history": [{}]},
    }
    report.write("report", {"name": "digits", "arms": arms})
    ```
    """
    if not results.get("arms"):
        raise ValueError(f"`results` must have 'arms'. Received: {sorted(results)}")
    os.makedirs(folder, exist_ok=True)
    plain, path = _files.jsonable(results), os.path.join(folder, "report.html")
    text = json.dumps(plain, indent=1, allow_nan=False)
    _files.write(os.path.join(folder, "report.json"), text)
    arms = summaries(plain)
    heads = ["", *_heads(arms)]
    _files.write(path, report_page.page(plain, arms, heads, _cells(arms)))
    return path


def _columns(arms):
    """Returns the columns of the measures: a regression's, or a classifier's."""
    numbers = task_in(arms.values()) is Numbers
    return (*(_OF_NUMBERS if numbers else _OF_CLASSES), *_COSTS)


def _heads(arms):
    return [heading for heading, *_ in _columns(arms)]


def _cells(arms):
    columns = _columns(arms)
    return [
        (_named(arm, summary), *(_cell(summary.get(key), *form) for _, key, *form in columns))
        for arm, summary in arms.items()
    ]


def _named(arm, summary):
    failed = summary.get("failed")
    return arm if failed is None else f"{arm} ({failed['mean']:.0f} failed)"


def _cell(value, scale, decimals, spread):
    if value is None:
        return "-"
    text = f"{scale * value['mean']:,.{decimals}f}"
    if not spread or value["std"] is None:
        return text
    return f"{text} ± {scale * value['std']:.{decimals}f}"
