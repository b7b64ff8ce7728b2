"""What stopping early saves, and what it costs: accuracy against operations and latency."""

import time

import keras
import numpy as np

from keras_distill.models.exits.cascade import Cascade, check_fraction
from keras_distill.models.exits.early_exits import outputs_of

import tensorflow as tf  # isort: skip: after the check of the backend in `taps`

THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)


def exit_report(net, data, thresholds=THRESHOLDS, *, from_logits=None, timed=64, rounds=3):
    """Measures early exit at several thresholds on labelled data.

    Operations are two for each multiplication of matrix products and convolutions, at batch size
    1, heads that were asked in vain included; elementwise ones are not counted. Latencies are of
    the traced model on this machine at batch size 1, with the thresholds taking turns.

    Args:
        net: a functional model with a dict of outputs, as `add_exits` makes.
        data: batches of `(x, y)`, `y` integer classes (batch,) or one-hot.
        thresholds: numbers in [0, 1].
        from_logits: as in `early_exit`.
        timed: how many of the first examples are timed; 0 for none.
        rounds: how often each is timed at each threshold; its median counts.

    Returns:
        A dict: `exits`, a list from the shallowest of `{"exit", "accuracy", "operations"}`, each
        used alone for all examples (the deepest without the heads before it); and `thresholds`,
        a list of `{"threshold", "accuracy", "operations", "share", "taken", "latency_ms"}`:
        the mean operations, their share of the deepest exit's alone, `{exit: share of examples}`
        and the mean latency in milliseconds.

    Raises:
        ValueError: for a threshold outside [0, 1], or no data.

    Example:

    ```python
    report = models.exit_report(net, test_data)
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


def cheapest(report, lost=0.005):
    """The row of fewest operations that loses at most `lost` accuracy to the deepest exit.

    Args:
        report: as `exit_report` returns it. Choose on a validation split.
        lost: in [0, 1]. Defaults to half a point.

    Raises:
        ValueError: if `lost` is not in [0, 1], or every threshold loses more.
    """
    check_fraction("lost", lost)
    least = report["exits"][-1]["accuracy"] - lost
    rows = [row for row in report["thresholds"] if row["accuracy"] >= least]
    if not rows:
        raise ValueError(f"Every threshold loses more. Give higher ones. Received: lost={lost}")
    return min(rows, key=lambda row: row["operations"])


def plot_exits(report, path):
    """Draws accuracy against operations and latency, over the thresholds, into a file.

    Args:
        report: as `exit_report` returns it.
        path: the file, such as `"exits.png"`.

    Raises:
        ImportError: if matplotlib is not installed.
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


def operations(function, *specs):
    """The operations of matrix products and convolutions in one call: two a multiplication.

    Args:
        function: a model, or a function of tensors.
        *specs: `tf.TensorSpec`s, or structures of them, of known shapes.

    Raises:
        ValueError: where a shape in the graph is unknown.
    """
    traced = tf.function(lambda *tensors: function(*tensors), autograph=False)
    graph = traced.get_concrete_function(*specs).graph
    return sum(_multiplications(op) for op in graph.get_operations()) * 2


def _multiplications(op):
    """How many a node of the graph does, from its shapes."""
    kind = op.type
    if kind not in ("MatMul", "BatchMatMulV2", "Conv2D", "DepthwiseConv2dNative", "Einsum",
                    "Conv3D"):  # fmt: skip
        return 0
    shapes = [tuple(tensor.shape) for tensor in (*op.inputs, *op.outputs)]
    if any(size is None for shape in shapes for size in shape):
        raise ValueError(f"Operations need known shapes. Received: {op.name} with {shapes}")
    output, kernel = shapes[-1], shapes[1]
    if kind == "Einsum":
        return _of_einsum(op.get_attr("equation").decode(), shapes)
    if kind == "MatMul":
        return int(np.prod(output)) * shapes[0][0 if op.get_attr("transpose_a") else 1]
    if kind == "BatchMatMulV2":
        return int(np.prod(output)) * shapes[0][-2 if op.get_attr("adj_x") else -1]
    if kind == "DepthwiseConv2dNative":
        return int(np.prod(output)) * int(np.prod(kernel[:2]))
    return int(np.prod(output)) * int(np.prod(kernel[:-1]))


def _of_einsum(equation, shapes):
    """The product of all its axes' sizes."""
    subscripts = equation.split("->")[0].split(",")
    sizes, rest = {}, 1
    for letters, shape in zip(subscripts, shapes):
        before, dots, after = letters.partition("...")
        named = len(before) + len(after)
        ends = [*shape[: len(before)], *(shape[len(shape) - len(after) :] if after else ())]
        sizes.update(zip(before + after, ends))
        hidden = shape[len(before) : len(before) + len(shape) - named] if dots else ()
        rest = max(rest, int(np.prod(hidden)))
    return rest * int(np.prod(list(sizes.values())))


def _measure(cascade, data, timed):
    """Which exits are right and how sure, (examples, exits) each, and the first examples."""
    right, sure, first = [], [], []
    for x, y, *_ in data:
        outputs = cascade.net.predict_on_batch(x)
        outputs = [tf.convert_to_tensor(outputs[name]) for name in cascade.exits]
        labels = np.asarray(y)
        labels = labels.argmax(-1) if labels.ndim > 1 and labels.shape[-1] > 1 else labels.ravel()
        right.append(np.stack([np.argmax(z, -1) == labels for z in outputs], -1))
        sure.append(np.stack([cascade.confidence(z) for z in outputs], -1))
        for row in range(min(timed - len(first), len(labels))):
            first.append(_example(x, row))
    if not right:
        raise ValueError("`data` must hold at least one batch of (x, y). Received: none")
    return np.concatenate(right), np.concatenate(sure), first


def _example(x, row):
    return keras.tree.map_structure(lambda values: values[row : row + 1], x)


def _costs(cascade):
    """The operations of each exit alone, and with all shallower heads."""
    net, outputs = cascade.net, outputs_of(cascade.net)
    spec = keras.tree.map_structure(
        lambda t: tf.TensorSpec((1, *t.shape[1:]), t.dtype), net._inputs_struct
    )

    def cost(names):
        model = keras.Model(net._inputs_struct, [outputs[name] for name in names])
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
    """The mean over examples of the median milliseconds of each, at each threshold."""
    if not examples:
        return []
    answer = tf.function(lambda x, threshold: cascade(x, threshold)[0], autograph=False)
    examples = [keras.tree.map_structure(tf.convert_to_tensor, x) for x in examples]
    levels = [tf.constant(threshold, tf.float32) for threshold in thresholds]
    for level in (tf.constant(0.0), tf.constant(1.0)):
        answer(examples[0], level)
    times = np.zeros((len(levels), len(examples), rounds))
    for turn in range(rounds):
        for column, x in enumerate(examples):
            for row, level in enumerate(levels):
                start = time.perf_counter()
                answer(x, level).numpy()
                times[row, column, turn] = time.perf_counter() - start
    return [float(1e3 * np.median(row, -1).mean()) for row in times]
