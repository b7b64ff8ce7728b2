"""The page of a report: one HTML file that includes its plots."""

import base64
import functools
import html
import io

from keras_distill.report import tables
from keras_distill.report.headline import headline, task_in
from keras_distill.report.tasks import Numbers

_COLORS = {"teacher": "#6b7280", "alone": "#d97706", "distilled": "#2563eb"}
_HISTORY = (
    ("validation accuracy", lambda k: k.startswith("val_") and "acc" in k),
    ("training accuracy", lambda k: "acc" in k),
    ("validation mean absolute error", lambda k: k == "val_mean_absolute_error"),
    ("validation loss", lambda k: k == "val_loss"),
    ("loss", lambda k: k == "loss"),
)

_STYLE = """
:root{color-scheme:light dark;--ink:#1f2937;--soft:#6b7280;
--page:#f6f7f9;--card:#fff;--line:#e5e7eb}
@media(prefers-color-scheme:dark){:root{--ink:#e5e7eb;--soft:#9ca3af;
--page:#16181d;--card:#20242b;--line:#363c46}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:70rem;padding:1.5rem 1rem;background:var(--page);
color:var(--ink);font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;margin:0}
h2{font-size:1.1rem;margin:2rem 0 .6rem}p{margin:.4rem 0}.soft{color:var(--soft)}
.card{background:var(--card);border:1px solid var(--line);border-radius:.6rem;
padding:.8rem;overflow-x:auto}
.grid{display:grid;gap:.8rem;
grid-template-columns:repeat(auto-fit,minmax(min(20rem,100%),1fr))}
img{display:block;width:100%;height:auto;background:#fff;border-radius:.4rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;
white-space:nowrap;font-size:.875rem}
th,td{padding:.35rem .55rem;text-align:right;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left;font-weight:600;position:sticky;left:0;
background:var(--card)}tr:last-child td{border:0}pre{margin:0;white-space:pre-wrap}
"""


def check_plots():
    """Raises an error if matplotlib, which draws the plots, is missing.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "The report's plots need matplotlib. Run `pip install keras-distill[examples]`."
        ) from error


def page(results, arms, heads, rows):
    """Returns the whole page, a string: headline, table, plots and the run's settings."""
    check_plots()
    name = html.escape(results.get("name") or "experiment")
    body = [
        f"<h1>{name}</h1><p>{html.escape(headline(arms))}</p>",
        _table(heads, rows),
        _plots(results),
        _doubts(results),
        _run(results),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>"
    )


def as_text(label):
    """Escapes a label for matplotlib, which reads text between two dollars as a formula."""
    return str(label).replace("$", r"\$")


def _table(heads, rows):
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    cells = ["".join(f"<td>{html.escape(text)}</td>" for text in row) for row in rows]
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return (
        f'<h2>Comparison</h2><div class="card"><table><tr>{head}</tr>{body}</table></div>'
        '<p class="soft">Mean ± sample standard deviation over seeds. Latency at batch 1.</p>'
    )


def _plots(results):
    cards = [
        ("Learning curves", lambda: _curves(results["arms"])),
        (_quality(results["arms"]), lambda: _bars(results["arms"])),
        ("Reliability", lambda: _reliability(results.get("reliability") or {})),
    ]
    images = [(title, _image(figure, title)) for title, figure in cards]
    return (
        '<div class="grid">'
        + "".join(
            f'<div><h2>{title}</h2><div class="card">{image}</div></div>'
            for title, image in images
            if image
        )
        + "</div>"
    )


def _doubts(results):
    found = results.get("doubts") or []
    images = [
        _image(functools.partial(_doubt, doubt, results.get("classes")), "soft targets")
        for doubt in found
    ]
    cards = "".join(f'<div class="card">{image}</div>' for image in images)
    title = "<h2>Where the student learned the teacher's doubt</h2>"
    return f'{title}<div class="grid">{cards}</div>' if found else ""


def _run(results):
    chosen = results.get("settings") or {}
    settings = "\n".join(f"{key} = {value}" for key, value in chosen.items())
    lines = [results.get("command") or "", settings]
    if results.get("seconds") is not None:
        lines.append(f"{results['seconds']:.0f} seconds")
    text = html.escape("\n\n".join(line for line in lines if line))
    return f'<h2>How it was run</h2><div class="card"><pre>{text}</pre></div>' if text else ""


def _figure(width=4.4, height=3.2, columns=1, **options):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    axes = figure.subplots(1, columns, **options)
    for axis in [axes] if columns == 1 else axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _image(draw, title):
    """Returns the drawing of `draw()` as HTML; empty if it returns `None`."""
    file = io.BytesIO()
    try:
        figure = draw()
        if figure is None:
            return ""
        figure.savefig(file, format="png", dpi=160, metadata={"Software": None})
    except Exception as error:  # matplotlib's, of any class: the numbers are the result
        return f"<p>This plot could not be drawn. {html.escape(str(error))}</p>"
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'


def _color(arm):
    return _COLORS.get(arm, "#059669")


def _curves(arms):
    histories = {arm: [h for h in entry.get("history") or [] if h] for arm, entry in arms.items()}
    histories = {arm: seeds for arm, seeds in histories.items() if seeds}
    for label, fits in _HISTORY:  # noqa: B007
        keys = {arm: next((k for k in h[0] if fits(k)), None) for arm, h in histories.items()}
        if keys and all(keys.values()):
            break
    else:
        return None
    figure, axis = _figure()
    curves = {
        arm: [seed[keys[arm]] for seed in seeds if keys[arm] in seed]
        for arm, seeds in histories.items()
    }
    for arm, seeds in curves.items():
        _band(axis, seeds, arm)
    _settle(axis, [seed for seeds in curves.values() for seed in seeds])
    axis.set(xlabel="epoch", ylabel=label)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(frameon=False)
    return figure


def _band(axis, seeds, arm):
    """Draws the mean over seeds and the band from the least to the greatest."""
    epochs = range(1, max(map(len, seeds)) + 1)
    at = [
        [s[e - 1] for s in seeds if e <= len(s) and s[e - 1] is not None] or [float("nan")]
        for e in epochs
    ]
    axis.plot(epochs, [sum(v) / len(v) for v in at], color=_color(arm), label=arm, lw=1.8)
    least, most = [min(v) for v in at], [max(v) for v in at]
    axis.fill_between(epochs, least, most, color=_color(arm), alpha=0.18, lw=0)


def _settle(axis, curves):
    """Cuts the axis to the curves' range after their first tenth, if all values are far apart."""
    late = [v for curve in curves for v in curve[len(curve) // 10 :] if v is not None]
    least, most = min(late, default=0), max(late, default=0)
    if most > least:
        margin = 0.06 * (most - least)
        axis.set_ylim(least - margin, most + margin)


def _task_of(arms):
    return task_in(seed for entry in arms.values() for seed in entry["seeds"])


def _quality(arms):
    return "R²" if _task_of(arms) is Numbers else "Accuracy"


def _bars(arms):
    task = _task_of(arms)
    values = {
        arm: [task.scale * s[task.metric] for s in e["seeds"] if s.get(task.metric) is not None]
        for arm, e in arms.items()
    }
    values = {arm: found for arm, found in values.items() if found}
    if not values:
        return None
    least, most = min(map(min, values.values())), max(map(max, values.values()))
    margin = max(most - least, 0.005 * task.scale)
    start = max(0.0, least - margin) if least >= 0 else least - margin
    figure, axis = _figure()
    for i, (arm, found) in enumerate(values.items()):
        mean = sum(found) / len(found)
        axis.bar(i, mean - start, bottom=start, color=_color(arm), alpha=0.75, width=0.6)
        span = [[mean - min(found)], [max(found) - mean]]
        axis.errorbar(i, mean, span, color="#111827", capsize=5)
        text = tables.plain(mean / task.scale, task.scale)
        axis.text(i, max(found) + 0.04 * margin, text, ha="center", va="bottom")
    axis.set(
        xticks=range(len(values)),
        xticklabels=list(values),
        ylim=(start, most + 0.3 * margin),
        ylabel=f"{'R²' if task is Numbers else 'accuracy, %'} (axis starts at {start:.4g})",
    )
    axis.set_title("mean; the line spans the seeds", fontsize=9, color="#6b7280")
    return figure


def _reliability(bins_of):
    if not bins_of:
        return None
    figure, axis = _figure()
    axis.plot([0, 1], [0, 1], color="#9ca3af", ls="--", lw=1)
    for arm, bins in bins_of.items():
        full = [i for i, n in enumerate(bins["count"]) if n]
        x, y = ([bins[key][i] for i in full] for key in ("confidence", "accuracy"))
        axis.plot(x, y, "o-", color=_color(arm), lw=1.2, ms=4, alpha=0.8, label=arm)
    counts = [n for bins in bins_of.values() for n in bins["count"] if n]
    if counts:
        told = f"{min(counts):,} to {max(counts):,} examples per point"
        axis.set_title(told, fontsize=9, color="#6b7280")
    axis.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.05), ylim=(-0.03, 1.05))
    axis.legend(frameon=False)
    return figure


def _doubt(doubt, names):
    """Draws an image, and beside it each arm's probabilities of the teacher's likeliest classes."""
    arms = doubt["probabilities"]
    teacher = arms.get("teacher") or next(iter(arms.values()))
    classes = sorted(sorted(range(len(teacher)), key=lambda c: -teacher[c])[:10])
    named = [as_text(names[c] if names else c) for c in classes]
    figure, (left, right) = _figure(4.4, 2.4, columns=2, width_ratios=(1, 2))
    image = doubt["image"]
    if isinstance(image[0][0], list) and len(image[0][0]) == 1:
        image = [[pixel[0] for pixel in row] for row in image]
    left.imshow(image, cmap="gray", vmin=0, vmax=1)
    left.set_axis_off()
    label = names[doubt["label"]] if names else doubt["label"]
    left.set_title(f"label: {as_text(label)}", fontsize=9)
    width = 0.8 / len(arms)
    for i, (arm, values) in enumerate(arms.items()):
        at = [j + (i - (len(arms) - 1) / 2) * width for j in range(len(classes))]
        right.bar(at, [values[c] for c in classes], width, color=_color(arm), label=arm)
    right.set(xticks=range(len(classes)), ylabel="probability")
    right.set_xticklabels(named, rotation=0 if max(map(len, named)) < 3 else 45, fontsize=8)
    right.set_ylim(0, 1)
    right.legend(
        frameon=False,
        fontsize=8,
        ncols=len(arms),
        loc="lower center",
        borderpad=0,
        bbox_to_anchor=(0.5, 1),
        handlelength=0.8,
        handletextpad=0.4,
        columnspacing=1,
    )
    return figure
