"""Measures classifiers against each other and writes the comparison as a table, JSON and a page.

Everything here works on any Keras model of one output `(batch, classes)`, logits or not.
"""
import json
import math
import os
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_distill import export
from keras_distill.report import page as report_page

BINS = 15

# A column: its heading, the measure, the factor to its unit, decimals, whether its spread is shown.
_COLUMNS = (
    ("accuracy %", "accuracy", 100, 2, True),
    ("agreement %", "agreement", 100, 2, True),
    ("KL to teacher", "kl_to_teacher", 1, 4, True),
    ("ECE", "expected_calibration_error", 1, 4, True),
    ("parameters", "parameters", 1, 0, False),
    ("size kB", "size_bytes", 1e-3, 1, False),
    ("median ms", "median_ms", 1, 3, False),
    ("p99 ms", "p99_ms", 1, 3, False),
)


def measure(model, data, teacher=None):
    """Measures a classifier on labelled data, and its likeness to a teacher.

    `agreement = mean(argmax p_T == argmax p_S)`,
    `kl_to_teacher = mean(sum_c p_T (log p_T - log p_S))` at temperature 1,
    `expected_calibration_error = sum_b n_b / n |accuracy_b - confidence_b|` over 15 equal bins.

    Args:
        model: A `keras.Model` whose output is `(batch, classes)`.
        data: Batches of `(x, y)`, y integer classes or one-hot.
        teacher: Optional model, or callable of `x`, with the same classes.

    Returns:
        A dict of `accuracy`, `expected_calibration_error`, `nll`, `parameters` and, with a teacher,
        `agreement` and `kl_to_teacher`.

    Raises:
        ValueError: There is no data, or outputs and labels do not fit.
    """
    models = [model] if teacher is None else [model, teacher]
    log_probs, labels = _predict(models, data)
    return {**scores(log_probs[0], labels, *log_probs[1:]), "parameters": model.count_params()}


def predictions(model, data):
    """The log-probabilities and integer labels of a model over its data, in the data's order.

    Args:
        model: A `keras.Model` whose output is `(batch, classes)`, logits or probabilities.
        data: Batches of `(x, y)`, in the same order at each pass if passes are to be compared.

    Returns:
        An array `(examples, classes)` and an array `(examples,)`.
    """
    (log_probs,), labels = _predict([model], data)
    return log_probs, labels


def scores(log_probs, labels, teacher_log_probs=None):
    """The measures of `measure`, except `parameters`, from `predictions`."""
    bins = reliability(log_probs, labels)
    rows = zip(bins["accuracy"], bins["confidence"], bins["count"], strict=True)
    gaps = [n * abs(a - c) for a, c, n in rows if n]
    chosen = log_probs.argmax(-1)
    result = {"accuracy": float(np.mean(chosen == labels)),
              "expected_calibration_error": float(sum(gaps) / len(labels)),
              "nll": float(-np.mean(log_probs[np.arange(len(labels)), labels]))}
    if teacher_log_probs is not None:
        if teacher_log_probs.shape != log_probs.shape:
            raise ValueError("The teacher must have the model's classes. Received: shapes "
                             f"{teacher_log_probs.shape} and {log_probs.shape}")
        result["agreement"] = float(np.mean(chosen == teacher_log_probs.argmax(-1)))
        result["kl_to_teacher"] = float(np.mean(_kl(teacher_log_probs, log_probs)))
    return result


def reliability(log_probs, labels, bins=BINS):
    """How often a model is right where it is this sure, in bins of equal width.

    Returns:
        A dict of `confidence`, `accuracy` (means within each bin, `None` if empty) and `count`.
    """
    confidence = np.exp(log_probs.max(-1))
    right = log_probs.argmax(-1) == labels
    index = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(int)
    members = [index == i for i in range(bins)]
    return {"confidence": [float(confidence[m].mean()) if m.any() else None for m in members],
            "accuracy": [float(right[m].mean()) if m.any() else None for m in members],
            "count": [int(m.sum()) for m in members]}


def doubts(images, labels, log_probs, count=6):
    """Images the teacher doubts most, where distilling brought the student nearer to it.

    Ordered by `H(p_T)`, among those with `KL(p_T || distilled) < KL(p_T || alone)`.

    Args:
        images: An array `(n, H, W)` or `(n, H, W, 1, 3 or 4)`; anything else gives no examples.
        labels: Integer classes.
        log_probs: A dict of each arm's, with `teacher`, `alone` and `distilled`.
        count: How many images at most.

    Returns:
        A list of dicts of `image`, `label` and `probabilities`, as `write` takes it.
    """
    shape = getattr(images, "shape", ())
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[-1] not in (1, 3, 4)):
        return []
    missing = {"teacher", "alone", "distilled"} - set(log_probs)
    if missing:
        raise ValueError("`log_probs` must hold 'teacher', 'alone' and 'distilled'. "
                         f"Received: {sorted(log_probs)}")
    teacher = log_probs["teacher"]
    entropy = -np.sum(np.exp(teacher) * np.maximum(teacher, -1e30), -1)  # 0 log 0 = 0
    nearer = _kl(teacher, log_probs["distilled"]) < _kl(teacher, log_probs["alone"])
    order = [i for i in np.argsort(-entropy, kind="stable") if nearer[i]][:count]
    low, high = float(np.min(images)), float(np.max(images))
    step = max(1, math.ceil(max(shape[1:3]) / 96))

    def scaled(image):
        return (np.asarray(image, float)[::step, ::step] - low) / ((high - low) or 1)

    return [{"image": scaled(images[i]).round(3).tolist(), "label": int(labels[i]),
             "probabilities": {arm: np.exp(p[i]).tolist() for arm, p in log_probs.items()}}
            for i in order]


def latency(models, example, runs=200, warmup=20):
    """The time of one prediction at batch 1, the models taken in turn so that drift hits all alike.

    Args:
        models: A dict of models by name.
        example: An input with a batch axis, of which the first row is used, or a dict of them.
        runs: Timed predictions of each model.
        warmup: Untimed ones before.

    Returns:
        `{name: {"median_ms": ..., "p99_ms": ...}}`.
    """
    if runs < 1:
        raise ValueError(f"`runs` must be positive. Received: runs={runs}")
    example = tree.map_structure(lambda x: tf.convert_to_tensor(x[:1]), example)
    compiled = {name: _compiled(model, example) for name, model in models.items()}
    times = {name: [] for name in models}
    for _ in range(warmup + runs):
        for name, function in compiled.items():
            start = time.perf_counter()
            tree.map_structure(lambda t: t.numpy(), function(example))
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: {"median_ms": float(np.median(t[warmup:])),
                   "p99_ms": float(np.percentile(t[warmup:], 99))} for name, t in times.items()}


def size_on_disk(model):
    """The bytes of the model's `.keras` file, without an optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        return os.path.getsize(export.write_student(model, os.path.join(folder, "model.keras")))


def summarize(rows):
    """`{measure: {"mean", "std", "n"}}` over seeds; the sample's deviation, `None` for one seed."""
    found = {key: [r[key] for r in rows if r.get(key) is not None] for row in rows for key in row}
    return {key: {"mean": float(np.mean(v)), "n": len(v),
                  "std": float(np.std(v, ddof=1)) if len(v) > 1 else None}
            for key, v in found.items() if v}


def summaries(results):
    """The summary of each arm of `write`'s results, its latency included."""
    measured = results.get("latency") or {}
    return {arm: {**summarize(entry["seeds"]), **summarize([measured.get(arm, {})])}
            for arm, entry in results["arms"].items()}


def table(arms):
    """An aligned text table of `{arm: summary}`, one row per arm; what is missing is "-"."""
    rows = [("", *(column[0] for column in _COLUMNS)), *_cells(arms)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.rjust(w) if i else c.ljust(w)
                       for i, (c, w) in enumerate(zip(row, widths, strict=True))) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def write(folder, results):
    """Writes `report.json` and a self-contained `report.html` into a folder.

    Args:
        folder: Made if need be.
        results: A dict; all but `arms` may be missing:
            `name`, `command`: strings; `settings`: a dict; `seconds`: a float;
            `arms`: `{"teacher" | "alone" | "distilled": {"seeds": [a dict of `measure`, with
            `size_bytes` if known, ...], "history": [`History.history` of each seed, ...]}}`;
            `latency`: as `latency` returns; `reliability`: `{arm: as reliability returns}`;
            `doubts`: as `doubts` returns; `classes`: the classes' names.

    Returns:
        The path of `report.html`.

    Raises:
        ValueError: `results` has no arms.
        ImportError: matplotlib is not installed; `report.json` is written before.
    """
    if not results.get("arms"):
        raise ValueError(f"`results` must have 'arms'. Received: {sorted(results)}")
    os.makedirs(folder, exist_ok=True)
    plain = report_page.plain(results)
    text = json.dumps(plain, indent=1, allow_nan=False)
    report_page.replace(os.path.join(folder, "report.json"), text)
    arms = summaries(plain)
    heads = ["", *(column[0] for column in _COLUMNS)]
    page = report_page.page(plain, arms, heads, _cells(arms))
    return report_page.replace(os.path.join(folder, "report.html"), page)


def _predict(models, data):
    """Every model's log-probabilities from one pass over the data, and the labels."""
    outputs, labels = [[] for _ in models], []
    for batch in data:
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        for found, model in zip(outputs, models, strict=True):
            found.append(_output(model, x))
        labels.append(_classes(np.asarray(y), outputs[0][-1].shape[-1]))
    if not labels:
        raise ValueError("`data` must hold at least one batch. Received: none")
    return [_log_probs(found) for found in outputs], np.concatenate(labels)


def _output(model, x):
    output = model.predict_on_batch(x) if isinstance(model, keras.Model) else model(x)
    if isinstance(output, (dict, list, tuple)) or len(output.shape) != 2 or output.shape[-1] < 2:
        received = tree.map_structure(lambda t: tuple(t.shape), output)
        raise ValueError("A model must have one output of shape (batch, classes). "
                         f"Received: {received}")
    return np.asarray(output).astype("float64")


def _classes(y, classes):
    """Integer labels of integer or one-hot ones."""
    if y.ndim == 2:
        y = y.argmax(-1) if y.shape[-1] == classes else y[:, 0] if y.shape[-1] == 1 else y
    if y.ndim != 1 or (len(y) and not 0 <= y.min() <= y.max() < classes):
        raise ValueError(f"Labels must be one-hot, or integers in [0, {classes}). Received: shape "
                         f"{y.shape}, from {y.min()} to {y.max()}")
    return y.astype(int)


def _log_probs(batches):
    """Log-probabilities of logits, or of probabilities where the first batch shows such."""
    first, outputs = batches[0], np.concatenate(batches)
    if (first >= 0).all() and np.allclose(first.sum(-1), 1, atol=5e-3):
        outputs = np.log(np.maximum(outputs, np.finfo("float32").tiny))
    shifted = outputs - outputs.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _kl(teacher, student):
    p = np.exp(teacher)
    return np.sum(np.subtract(teacher, student, where=p > 0, out=np.zeros_like(p)) * p, -1)


def _compiled(model, example):
    function = tf.function(lambda x: model(x, training=False), autograph=False)
    return function.get_concrete_function(example)


def _cells(arms):
    return [(arm, *(_cell(summary.get(key), *form) for _, key, *form in _COLUMNS))
            for arm, summary in arms.items()]


def _cell(value, scale, decimals, spread):
    if value is None:
        return "-"
    text = f"{scale * value['mean']:,.{decimals}f}"
    if not spread or value["std"] is None:
        return text
    return f"{text} ± {scale * value['std']:.{decimals}f}"
