"""Runs with measures of their own: a table, the arms compared with each other, their training.

Such a run has arms and columns of its own (`experiments.Runner`), and no data to measure again.
"""

import numpy as np

from keras_distill.report import comparison_plots, plots, tables

BASELINE = "alone"


def is_recorded(results):
    """Returns whether results belong to a run with measures of its own."""
    return "arms" in results


def recorded(name, arms, sizes, histories, provenance):
    """Returns the results of a `Comparison` for a run with measures of its own.

    Args:
        name: The name of the run.
        arms: `{arm: [{column: number} of each seed]}`.
        sizes: `{arm: the bytes of its .keras file}`, for arms that were trained.
        histories: `{arm: [History.history of each seed]}`.
        provenance: A dict that JSON can hold.
    """
    columns = list(dict.fromkeys(c for rows in arms.values() for row in rows for c in row))
    values = {arm: {c: [row.get(c) for row in rows] for c in columns
                    if any(c in row for row in rows)}
              for arm, rows in arms.items() if rows}  # fmt: skip
    return {"name": name, "arms": values, "columns": columns, "sizes": sizes,
            "histories": histories, "provenance": provenance}  # fmt: skip


def headline(results):
    """Returns the first column in a sentence."""
    first = next(iter(results["columns"]), None)
    arms = {arm: _known(row.get(first)) for arm, row in results["arms"].items()}
    told = [f"{arm} {_number(np.mean(found))}" for arm, found in arms.items() if found]
    if not told:
        return f"{results['name']} has no measures."
    return f"{first}: {', '.join(told)}."


def tables_of(results):
    """Returns the tables, in the form of `tables.tables`."""
    found = [_measured(results), _against(results)]
    return [table for table in found if table[2]]


def _measured(results):
    sizes = results["sizes"]
    body = []
    for arm, row in results["arms"].items():
        cells = [_cell(row.get(column)) for column in results["columns"]]
        body.append([arm, *cells, *([tables.size(sizes.get(arm))] if sizes else [])])
    heads = ["", *results["columns"], *([".keras file"] if sizes else [])]
    return (
        "Measures",
        heads,
        body,
        "Mean ± sample deviation over the seeds, as the run measured it.",
    )


def _against(results):
    """Returns the differences from the student alone, by pairs of seeds."""
    arms = results["arms"]
    base, body = arms.get(BASELINE), []
    if base is None or len(next(iter(base.values()), [])) < 2:
        return "Differences", [], [], ""
    columns = [c for c in results["columns"] if any(
        _pairs(row.get(c), base.get(c)) is not None for arm, row in arms.items() if arm != BASELINE
    )]  # fmt: skip
    for arm, row in arms.items():
        pairs = {c: _pairs(row.get(c), base.get(c)) for c in columns}
        if arm != BASELINE and any(each is not None for each in pairs.values()):
            body.append([arm, *map(_gap, pairs.values())])
    told = f"Mean ± standard error of the difference from {BASELINE} with the same seed."
    return "Differences", ["", *columns], body, told


def _pairs(ours, others):
    """Returns the differences of two lists of equal length, or `None` if they are no pairs."""
    if not ours or not others or len(ours) != len(others) or None in (*ours, *others):
        return None
    return np.subtract(ours, others)


def _gap(gaps):
    if gaps is None:
        return tables.MISSING
    error = gaps.std(ddof=1) / len(gaps) ** 0.5
    return f"{'' if gaps.mean() < 0 else '+'}{_number(gaps.mean(), 3)} ± {_number(error, 2)}"


def _cell(values):
    known = _known(values)
    if not known:
        return tables.MISSING
    if len({*known}) == 1 and isinstance(known[0], int):
        return f"{known[0]:,}"
    spread = f" ± {_number(np.std(known, ddof=1), 2)}" if len(known) > 1 else ""
    return _number(np.mean(known)) + spread


def _known(values):
    return [value for value in values or [] if value is not None]


def _number(value, digits=4):
    """Formats a number with so many significant digits, or a large one with all."""
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:#.{digits}g}"


def plots_of(results):
    """Returns `[(title, figure)]`: for each column its arms, with a line over the seeds."""
    made = []
    for column in results["columns"]:
        rows = {arm: known for arm, row in results["arms"].items()
                if (known := _known(row.get(column)))}  # fmt: skip
        rows = {arm: {"model": arm, "value": float(np.mean(known)), "low": min(known),
                      "high": max(known)} for arm, known in rows.items()}  # fmt: skip
        if len(rows) > 1:
            heading = plots.short(column, 26)
            measure = {"scale": 1, "heading": heading, "line": "the line spans the seeds"}
            made.append((column, comparison_plots.intervals({"rows": rows, "measure": measure})))
    return made
