"""Measures what early exits save and cost: accuracy against operations and latency."""

import time
from collections.abc import Sequence
from os import PathLike
from typing import Any

import keras
import numpy as np

from keras_distill import _backend
from keras_distill._keras import graph
from keras_distill.losses.answers import class_ids
from keras_distill.models.exits.cascade import Cascade, check_fraction
from keras_distill.models.exits.early_exits import outputs_of
from keras_distill.models.exits.operations import operations

THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)


def exit_report(
    net: keras.Model,
    data: Any,
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    from_logits: bool | None = None,
    timed: int = 64,
    rounds: int = 3,
) -> dict:
    """Measures early exit at several thresholds on labelled data.

    Operations count two for each multiplication of matrix products and convolutions, at batch size
    1, including heads of exits that did not stop. Elementwise operations are not counted.
    Latencies are measured on this machine at batch size 1, with the thresholds in turns. The model
    is traced by TensorFlow, compiled by JAX, or run by PyTorch without gradients.

    Args:
        net: a functional model with a dict of outputs, such as one of `add_exits`.
        data: batches of `(x, y)`, `y` integer classes (batch,) or one-hot.
        thresholds: numbers in [0, 1].
        from_logits: as in `early_exit`.
        timed: how many of the first examples to time. 0 is none.
        rounds: how often each example is timed at each threshold. The median is used.

    Returns:
        A dict of `exits` and `thresholds`. `exits` is a list of
        `{"exit", "accuracy", "operations"}` from the shallowest; each exit is used alone for all
        examples, and the deepest runs without the heads before it. `thresholds` is a list of
        `{"threshold", "accuracy", "operations", "share", "taken", "latency_ms"}`: the mean
        operations, their ratio to those of the deepest exit alone, `{exit: share of examples}` and
        the mean latency in milliseconds.

    Raises:
        ValueError: if a threshold is outside [0, 1], or there are no data.

    Example:

    ```python
    report = models.exit_report(net, dataset, thresholds=(0.5, 0.9, 1.0), timed=2)
    models.plot_exits(report, "exits.png")
    models.cheapest(report, lost=0.005)
    ```
    """
    for threshold in thresholds:
        check_fraction("threshold", threshold)
    cascade = Cascade(net, 1.0, from_logits=from_logits)
    right, sure, first = _measure(cascade, data, timed)
    alone, up_to = _costs(cascade)
    exits = [
        {"exit": name, "accuracy": float(right[:, k].mean()), "operations": alone[k]}
        for k, name in enumerate(cascade.exits)
    ]
    rows = [_row(cascade, t, right, sure, up_to, alone[-1]) for t in thresholds]
    for row, latency in zip(rows, _latencies(cascade, first, thresholds, rounds)):
        row["latency_ms"] = latency
    return {"exits": exits, "thresholds": rows}


def cheapest(report: dict, lost: float = 0.005) -> dict:
    """Returns the threshold with the fewest operations that loses at most `lost` accuracy.

    Args:
        report: as `exit_report` returns it. Choose on a validation split.
        lost: in [0, 1]. Defaults to half a point.

    Returns:
        One of the report's `thresholds`.

    Raises:
        ValueError: if `lost` is not in [0, 1], or every threshold loses more.

    Example:

    ```python
    report = models.exit_report(net, dataset, timed=0)
    best = models.cheapest(report, lost=0.01)
    ```
    """
    check_fraction("lost", lost)
    least = report["exits"][-1]["accuracy"] - lost
    rows = [row for row in report["thresholds"] if row["accuracy"] >= least]
    if not rows:
        raise ValueError(
            f"Every threshold loses more than `lost`. Give higher thresholds. Received: lost={lost}"
        )
    return min(rows, key=lambda row: row["operations"])


def plot_exits(report: dict, path: str | PathLike[str]) -> None:
    """Draws accuracy against operations and latency, over the thresholds, into a file.

    Args:
        report: as `exit_report` returns it.
        path: the file, such as `"exits.png"`.

    Raises:
        ImportError: if matplotlib is not installed.

    Example:

    ```python
    report = models.exit_report(net, dataset, timed=0)
    models.plot_exits(report, "exits.png")
    ```
    """
    from matplotlib.figure import Figure

    rows = report["thresholds"]
    axes = ("operations", "mean operations of an example"), ("latency_ms", "mean latency, ms")
    axes = [axis for axis in axes if rows and axis[0] in rows[0]]
    figure = Figure(figsize=(5.5 * len(axes), 4), layout="constrained")
    for panel, (key, label) in zip(np.ravel(figure.subplots(1, len(axes))), axes):
        panel.plot([row[key] for row in rows], [100 * row["accuracy"] for row in rows], "o-",
                   label="early exit")  # fmt: skip
        for row in rows:
            panel.annotate(f"{row['threshold']:g}", (row[key], 100 * row["accuracy"]),
                           textcoords="offset points", xytext=(4, -10), fontsize=7)  # fmt: skip
        if key == "operations":
            panel.plot([exit[key] for exit in report["exits"]],
                       [100 * exit["accuracy"] for exit in report["exits"]], "s",
                       label="one exit for all")  # fmt: skip
        panel.set(xlabel=label, ylabel="accuracy, %")
        panel.grid(alpha=0.3)
        panel.legend()
    figure.savefig(path, dpi=150)


def _measure(cascade, data, timed):
    """Returns which exits are right and how sure, (examples, exits), and the first examples."""
    right, sure, first = [], [], []
    for x, y, *_ in data:
        outputs = cascade.net.predict_on_batch(x)
        outputs = [outputs[name] for name in cascade.exits]
        labels = keras.ops.convert_to_numpy(class_ids(np.asarray(y), outputs[0]))
        right.append(np.stack([np.argmax(z, -1) == labels for z in outputs], -1))
        sure.append(np.stack([_confidence(cascade, z) for z in outputs], -1))
        for row in range(min(timed - len(first), len(labels))):
            first.append(_example(x, row))
    if not right:
        raise ValueError("`data` must hold at least one batch of (x, y). Received: none")
    return np.concatenate(right), np.concatenate(sure), first


def _confidence(cascade, output):
    return keras.ops.convert_to_numpy(cascade.confidence(keras.ops.convert_to_tensor(output)))


def _example(x, row):
    return keras.tree.map_structure(lambda values: values[row : row + 1], x)


def _costs(cascade):
    """Returns the operations of each exit alone, and with all shallower heads."""
    net, outputs = cascade.net, outputs_of(cascade.net)
    spec = keras.tree.map_structure(
        lambda t: keras.KerasTensor((1, *t.shape[1:]), t.dtype), graph.inputs(net)
    )

    def cost(names):
        model = keras.Model(graph.inputs(net), [outputs[name] for name in names])
        return operations(lambda x: model(x, training=False), spec)

    exits = cascade.exits
    return [cost([name]) for name in exits], [cost(exits[: k + 1]) for k in range(len(exits))]


def _row(cascade, threshold, right, sure, up_to, whole):
    reached = sure >= np.float32(threshold)
    reached[:, -1] = True
    taken = reached.argmax(-1)
    shares = np.bincount(taken, minlength=len(up_to)) / len(taken)
    mean = float(shares @ up_to)
    return {
        "threshold": float(threshold),
        "accuracy": float(right[np.arange(len(taken)), taken].mean()),
        "operations": mean,
        "share": mean / whole,
        "taken": {name: float(share) for name, share in zip(cascade.exits, shares)},
    }


def _latencies(cascade, examples, thresholds, rounds):
    """Returns the mean over examples of each one's median milliseconds, at each threshold."""
    if not examples:
        return []
    answer = _traced(lambda x, threshold: cascade(x, threshold)[0])
    examples = [keras.tree.map_structure(keras.ops.convert_to_tensor, x) for x in examples]
    levels = [keras.ops.convert_to_tensor(threshold, "float32") for threshold in thresholds]
    for level in (0.0, 1.0):
        answer(examples[0], keras.ops.convert_to_tensor(level, "float32"))
    times = np.zeros((len(levels), len(examples), rounds))
    for turn in range(rounds):
        for column, x in enumerate(examples):
            for row, level in enumerate(levels):
                start = time.perf_counter()
                keras.ops.convert_to_numpy(answer(x, level))
                times[row, column, turn] = time.perf_counter() - start
    return [float(1e3 * np.median(row, -1).mean()) for row in times]


def _traced(function):
    """Returns the function as a server runs it: traced, compiled, or run without gradients."""
    if _backend.NAME == "tensorflow":
        tf = _backend.tensorflow("`exit_report`")
        return tf.function(function, autograph=False)
    if _backend.NAME == "jax":
        import jax

        return jax.jit(function)
    import torch

    return torch.no_grad()(function)
