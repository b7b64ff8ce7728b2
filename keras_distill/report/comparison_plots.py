"""The plots of a comparison: quality, cost, calibration, training, layers and doubt."""

import math
import textwrap

import numpy as np

from keras_distill.report import plots, tables
from keras_distill.report.statistics import pareto

KNOBS = ("alpha", "_weight", "_temperature")


def intervals(results):
    """Returns each row's measure with its interval."""
    rows, scale = results["rows"], results["measure"]["scale"]
    shown = {name: row for name, row in rows.items() if row["value"] is not None}
    if not shown:
        return None
    color = plots.colors(dict.fromkeys(row["model"] for row in rows.values()))
    made, axes = plots.figure(0.9 + 0.42 * len(shown))
    for at, (name, row) in enumerate(shown.items()):
        value = scale * row["value"]
        ends = [scale * row[e] if row[e] is not None else value for e in ("low", "high")]
        axes.plot(ends, [at, at], color=color[row["model"]], lw=3, solid_capstyle="round")
        axes.plot(value, at, "o", color=color[row["model"]], ms=7)
        text = f"{plots.short(name, 34)}: {tables.plain(row['value'], scale)}"
        axes.text(0, at - 0.24, text, fontsize=9.5,
                  color=plots.INK, transform=axes.get_yaxis_transform(), va="bottom")  # fmt: skip
    axes.set_ylim(len(shown) - 0.5, -0.75)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    line = results["measure"].get("line", "95% interval")
    plots.label(axes, x=f"{results['measure']['heading']}, {line}")
    return made


def points(results):
    """Returns `[(label, model, milliseconds, bytes, value)]` of the measured and timed models."""
    found, one = [], {each["of"]: each["student"] for each in results["exported"]}
    for row in results["rows"].values():
        cost, name = results["costs"].get(row["model"]), row["model"]
        if cost and not row["output"]:
            value = one.get(name, row["value"])  # for this seed and these examples
            found.append((f"{name}, Keras", name, cost["latency"]["1"]["median_ms"],
                          cost["size_bytes"], value))  # fmt: skip
    for each in results["exported"]:
        timed = each["latency"].get("1") or next(iter(each["latency"].values()))
        found.append((tables.label(each), each["of"], timed["median_ms"], each["size_bytes"],
                      each["quality"]["value"]))  # fmt: skip
    return [each for each in found if each[-1] is not None]


def fronts(measure, named):
    """Returns quality against latency and against size, with the Pareto front.

    Args:
        measure: the measure of all runs.
        named: the results of `points` for all runs.

    Returns:
        Two figures, or none if there are fewer than two points.
    """
    if len(named) < 2:
        return []
    scale = measure["scale"]
    marks = dict(zip((each[0] for each in named), "osD^vPX*<>hp8d" * (1 + len(named) // 14)))
    tint = plots.colors(dict.fromkeys(each[1] for each in named))
    made = []
    large = max(each[3] for each in named) >= 1e6
    sizes = (3, 1e-6, "size, MB") if large else (3, 1e-3, "size, kB")
    for column, factor, unit in ((2, 1, "milliseconds, batch 1"), sizes):
        drawn, axes = plots.figure(2.9 + 0.19 * len(named))
        for each in named:
            axes.plot(each[column] * factor, scale * each[-1], marks[each[0]], label=each[0],
                      color=tint[each[1]], ms=7, alpha=0.9, mec="none")  # fmt: skip
        sign = -1 if measure["lower"] else 1
        front = pareto([(each[column] * factor, sign * scale * each[-1]) for each in named])
        axes.step([x for x, _ in front], [sign * y for _, y in front], where="post",
                  color=plots.SOFT, lw=1, ls="--", zorder=0)  # fmt: skip
        _logarithmic(axes, [each[column] * factor for each in named])
        plots.label(axes, unit, measure["heading"])
        plots.legend(axes, 1)
        made.append(drawn)
    return made


def _logarithmic(axes, values):
    """Gives an axis a logarithmic scale with plain numbers at 1, 2 and 5."""
    from matplotlib import ticker

    low, high = min(values), max(values)
    if low <= 0:
        return
    axes.set_xscale("log")
    axes.set_xlim(low / 1.4, high * 1.4)
    ends = range(math.floor(math.log10(low / 1.4)), math.ceil(math.log10(high * 1.4)) + 1)
    few = (1, 2, 5) if high / low < 300 else (1,)
    few = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8) if high / low < 3 else few
    ticks = [m * 10.0**e for e in ends for m in few if low / 1.4 <= m * 10.0**e <= high * 1.4]
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xticks(ticks or [low, high], [f"{tick:,.10g}" for tick in ticks or [low, high]])


def calibration(results):
    """Returns a plot of accuracy against confidence, for each model in groups of equal size."""
    rows = {name: row for name, row in results["rows"].items()
            if (row.get("calibration") or {}).get("count")}  # fmt: skip
    if not rows:
        return None
    color = plots.colors(dict.fromkeys(row["model"] for row in results["rows"].values()))
    made, axes = plots.figure(3.3 + 0.19 * math.ceil(len(rows) / 2))
    least = min(min(row["calibration"][key]) for row in rows.values()
                for key in ("confidence", "accuracy"))  # fmt: skip
    axes.plot([least, 1], [least, 1], color=plots.SOFT, ls="--", lw=1)
    for name, row in rows.items():
        groups = row["calibration"]
        axes.plot(groups["confidence"], groups["accuracy"], "o-", color=color[row["model"]], ms=4,
                  lw=1.4, label=name, alpha=0.85)  # fmt: skip
    counts = [n for row in rows.values() for n in row["calibration"]["count"]]
    plots.label(axes, "confidence", f"accuracy, {_span(counts)} answers per point")
    plots.legend(axes)
    return made


def _span(counts):
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def curves(results):
    """Returns `[(title, figure)]`: every logged value over the epochs, with all arms."""
    histories = {arm: [h for h in seeds if h] for arm, seeds in results["histories"].items()}
    histories = {arm: seeds for arm, seeds in histories.items() if seeds}
    keys = list(dict.fromkeys(k for seeds in histories.values() for h in seeds for k in h))
    color, made = plots.colors(results["histories"]), []
    for key in sorted(keys, key=lambda k: (k.startswith(KNOBS[0]) or k.endswith(KNOBS[1:]),)):
        shown = {arm: [h[key] for h in seeds if h.get(key)] for arm, seeds in histories.items()}
        shown = {arm: seeds for arm, seeds in shown.items() if seeds}
        values = [v for seeds in shown.values() for seed in seeds for v in seed if v is not None]
        if len({*values}) < 2:  # one epoch, or a constant
            continue
        drawn, axes = plots.figure(2.4)
        for arm, seeds in shown.items():
            for number, seed in enumerate(seeds):
                clean = [float("nan") if v is None else v for v in seed]
                axes.plot(range(1, len(seed) + 1), clean, color=color[arm], lw=1.3, alpha=0.8,
                          label=arm if not number else None)  # fmt: skip
        if min(values) > 0 and max(values) > 50 * min(values):
            axes.set_yscale("symlog", linthresh=min(values))
            from matplotlib import ticker

            axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
        axes.xaxis.get_major_locator().set_params(integer=True)
        plots.label(axes, "epoch", plots.short(key, 40))
        plots.legend(axes)
        made.append((key, drawn))
    return made


def layers(name, cka):
    """Returns a map of the similarity between layers."""
    rows, columns = len(cka["teacher"]), len(cka["student"])
    made, axes = plots.figure(1.9 + 0.19 * rows + 0.05 * max(map(len, cka["student"])))
    matrix = np.array(cka["cka"], float)  # NaN for what is no number
    image = axes.imshow(matrix, vmin=0, vmax=1, origin="lower", cmap="viridis", aspect="auto")
    axes.grid(False)
    ours, theirs = ([plots.short(path) for path in cka[side]] for side in ("student", "teacher"))
    axes.set_xticks(range(columns), ours, rotation=90, fontsize=9)
    axes.set_yticks(range(rows), theirs, fontsize=9)
    bar = made.colorbar(image, fraction=0.06)
    bar.ax.tick_params(colors=plots.INK, labelsize=9)
    bar.outline.set_visible(False)
    plots.label(axes, f"layers of {plots.short(name)}", "layers of the teacher")
    return made


def soft_target(results, shown):
    """Draws an image, if there is one, and each model's probabilities of the likeliest classes."""
    models = shown["probabilities"]
    theirs = models.get("teacher") or next(iter(models.values()))
    classes = sorted(range(len(theirs)), key=lambda c: -theirs[c])[:5][::-1]
    color = plots.colors(dict.fromkeys(row["model"] for row in results["rows"].values()))
    written = 0.4 if shown.get("text") else 0
    made, axes = plots.figure(2.4 + written + 0.19 * math.ceil(len(models) / 3))
    height = 0.8 / len(models)
    for number, (name, values) in enumerate(models.items()):
        at = [row + (len(models) / 2 - number - 0.5) * height for row in range(len(classes))]
        axes.barh(at, [values[c] for c in classes], height, color=color[name], label=name)
    label, *names = (plots.short(tables.class_name(results, c)) for c in (shown["label"], *classes))
    axes.set_yticks(range(len(classes)), names)
    axes.set_xlim(0, 1)
    plots.label(axes, "probability", f"label: {label}")
    said = textwrap.wrap(" ".join(shown.get("text", "").split()), 40)[:2]
    if said:
        made.suptitle("\n".join(said), x=0.02, ha="left", fontsize=9.5, color=plots.INK)
    if "image" in shown:
        inner = axes.inset_axes([0.7, 0.02, 0.3, 0.5], anchor="SE")
        pixels = shown["image"]
        if isinstance(pixels[0][0], list) and len(pixels[0][0]) == 1:
            pixels = [[pixel[0] for pixel in row] for row in pixels]
        inner.imshow(pixels, cmap="gray", vmin=0, vmax=1)
        inner.set_axis_off()
    plots.legend(axes, 3)
    return made
