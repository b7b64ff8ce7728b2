"""Draws `images/default-gains.png`: gains of the untuned default, each with its interval.

    python benchmarks/never_hurts.py --data=DIR --out=runs/gains
    python docs/gains.py runs/gains/gains.json
"""

import json
import pathlib
import sys

from matplotlib.figure import Figure

PLACE = pathlib.Path(__file__).parent / "images" / "default-gains.png"
WIN, LOSS = "#2563eb", "#d97706"


def draw(rows, path):
    """A line a pair: the mean gain on the test split and twice its standard error."""
    rows = sorted(rows, key=lambda row: row["gain"])
    figure = Figure(figsize=(7.4, 1.2 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        color = WIN if row["gain"] > 0 else LOSS
        axes.errorbar(row["gain"], place, xerr=2 * row["error"], fmt="o", color=color, capsize=3)
    axes.axvline(0, color="#6b7280", lw=1)
    axes.set_yticks(range(len(rows)), [row["pair"] for row in rows])
    axes.set_xlabel("points over the student alone, test split, ± 2 standard errors")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, format="png", dpi=120)


if __name__ == "__main__":
    draw(json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))["rows"], PLACE)
