"""Time per `fit` step of a distiller, over a hand-written step that does the same work.

How it is measured:

- Every arm does its work on its own teacher and student, seeded alike, over the same kind of
  dataset: batched, cached in memory, a fixed number of steps, prefetched; the batch size is not
  static. All are compiled with Adam and a cross entropy from logits, without metrics.
- A *floor* is one `tf.function`: teacher forward outside the tape, student forward and backward,
  T^2 KL + cross entropy (+ the mean squared error of features, projected where widths differ),
  Adam; a `for` loop feeds it. Nothing is logged. Ratios are over the floor of the same work.
- `fit` and `evaluate` run with `verbose=0`. Their time is taken from the beginning to the end of an
  epoch: the iterator's creation and the metrics' reading are in it, the set-up of `fit` is not.
  Each round is a new call of `fit`, so a model that traces again at every call shows it here.
- The first epoch of each arm traces and is thrown away. Then come rounds (A B C, C B A, ...): an
  epoch of each arm a round. Ratios are taken within a round; reported is the median over rounds.
- CPU time is the process's, of all threads; goals are in CPU time. Wall time is beside it.
- `keras.distillation` has no projector, so features are tapped where teacher and student have one
  shape ("1 feature", "3 features"); "3 projected" taps narrower layers of the student, which only
  ours and the floor can do. It gets `KLDivergence()` instances: its default loss is not KL.
- "keras.io style" is the well-known example: the teacher in the tape and not frozen, hence trained.

    python benchmarks/step_overhead.py [--quick] [--workload=NAME] [--rounds=N] [--json=FILE]
"""

import argparse
import dataclasses
import datetime
import functools
import gc
import json
import math
import os
import platform
import re
import statistics
import sys
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_distill import Distiller, Term
from keras_distill.losses import KLDivergence

T = 2.0
ALPHA = 0.5
CROSS_ENTROPY = functools.partial(keras.losses.SparseCategoricalCrossentropy, from_logits=True)

# Workloads: a teacher and a student, and the layers to compare: (student's, teacher's).


def cnn(widths, convs, narrow=None):
    """Blocks of 3x3 convolutions; `narrow` ones are widened by a 1x1 convolution."""
    inputs = x = keras.Input((28, 28, 1))
    for i, width in enumerate(widths):
        for _ in range(convs):
            x = layers.Conv2D(narrow[i] if narrow else width, 3, padding="same", activation="relu")(
                x
            )
        x = layers.MaxPooling2D(padding="same", name=f"narrow{i}" if narrow else f"block{i}")(x)
        if narrow:
            x = layers.Conv2D(width, 1, activation="relu", name=f"block{i}")(x)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def transformer(blocks, width, heads=4, length=64, words=5_000, hidden=512):
    """A BERT-like classifier of token ids."""
    inputs = keras.Input((length,), dtype="int32")
    x = layers.Embedding(words, width)(inputs) + layers.Embedding(length, width)(np.arange(length))
    x = layers.LayerNormalization()(x)
    for i in range(blocks):
        attended = layers.MultiHeadAttention(heads, width // heads)(x, x)
        x = layers.LayerNormalization()(x + attended)
        inner = layers.Dense(hidden, activation="gelu", name=f"inner{i}")(x)
        x = layers.LayerNormalization(name=f"block{i}")(x + layers.Dense(width)(inner))
    pooled = layers.Dense(128, activation="tanh", name="pooler")(x[:, 0])
    return keras.Model(inputs, layers.Dense(10)(pooled))


TEACHER = functools.partial(cnn, (16, 32, 64), 2)
STUDENT = functools.partial(cnn, (16, 32, 64), 1, narrow=(8, 16, 32))
SMALL_TEACHER = functools.partial(cnn, (8, 16, 32), 2)
SMALL_STUDENT = functools.partial(cnn, (8, 16, 32), 1, narrow=(4, 8, 16))
BERT_TEACHER = functools.partial(transformer, 4, 256)
BERT_STUDENT = functools.partial(transformer, 2, 128)
CNN_EQUAL = [(f"block{i}", f"block{i}") for i in (2, 1, 0)]
CNN_PROJECTED = [(f"narrow{i}", f"block{i}") for i in (2, 1, 0)]
BERT_EQUAL = [("pooler", "pooler"), ("inner1", "inner3"), ("inner0", "inner1")]
BERT_PROJECTED = [("block1", "block3"), ("block0", "block1")]


@dataclasses.dataclass(frozen=True)
class Workload:
    teacher: callable
    student: callable
    equal: list  # pairs of layers whose outputs have one shape
    projected: list  # pairs of layers whose widths differ
    batch: int
    steps: int
    limit: float  # goal: ours over the floor, logits
    limit_features: float  # and with 3 feature terms
    faster: float  # goal: keras.distillation with features over ours


# fmt: off
WORKLOADS = {
    "cnn b32": Workload(
        SMALL_TEACHER, SMALL_STUDENT, CNN_EQUAL, CNN_PROJECTED, 32, 60, 1.05, 1.08, 1.25),
    "cnn b256": Workload(
        TEACHER, STUDENT, CNN_EQUAL, CNN_PROJECTED, 256, 10, 1.03, 1.05, 1.25),
    "bert b32": Workload(
        BERT_TEACHER, BERT_STUDENT, BERT_EQUAL, BERT_PROJECTED, 32, 10, 1.03, 1.05, 1.25),
    "one size b128": Workload(
        STUDENT, STUDENT, CNN_EQUAL, [], 128, 20, 1.03, 1.05, 1.5),
}
# fmt: on


def dataset(workload, steps, copies=4):
    rng = np.random.default_rng(0)
    shape, kind = workload.student().input.shape[1:], workload.student().input.dtype
    size = workload.batch * copies
    x = rng.integers(0, 5_000, (size, *shape)) if kind == "int32" else rng.random((size, *shape))
    data = tf.data.Dataset.from_tensor_slices((x.astype(kind), rng.integers(0, 10, size)))
    data = data.batch(workload.batch).cache().repeat(math.ceil(steps / copies))
    return data.take(steps).prefetch(tf.data.AUTOTUNE)


# Arms: each is a function that runs one epoch and returns (CPU seconds, wall seconds).


def now():
    return np.array([time.process_time(), time.perf_counter()])


class Clock(keras.callbacks.Callback):
    """The time between the beginning and the end of an epoch or of an evaluation."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = now()

    def on_epoch_end(self, epoch, logs=None):
        self.taken = now() - self.start

    def on_test_begin(self, logs=None):
        self.start = now()

    def on_test_end(self, logs=None):
        self.taken = now() - self.start


def timed(method, data):
    """An epoch by `fit` or `evaluate`."""
    clock = Clock()

    def epoch():
        with warnings.catch_warnings(action="ignore"):  # a dataset is not shuffled by `fit`
            method(data, verbose=0, callbacks=[clock])
        return clock.taken

    return epoch


def floor(teacher, student, pairs, data):
    cross_entropy, optimizer = CROSS_ENTROPY(), keras.optimizers.Adam()
    teacher_taps = [teacher.output, *(teacher.get_layer(name).output for _, name in pairs)]
    student_taps = [student.output, *(student.get_layer(name).output for name, _ in pairs)]
    projections = [
        None if s.shape == t.shape else layers.Dense(t.shape[-1])
        for s, t in zip(student_taps[1:], teacher_taps[1:])
    ]
    for projection, tap in zip(projections, student_taps[1:]):
        if projection is not None:
            projection.build(tap.shape)
    teacher, student = (
        keras.Model(model.input, taps)
        for model, taps in ((teacher, teacher_taps), (student, student_taps))
    )
    variables = list(student.trainable_variables)
    variables += [v for p in projections if p is not None for v in p.trainable_variables]
    optimizer.build(variables)

    @functools.partial(tf.function, input_signature=data.element_spec)
    def step(x, y):
        target, *goals = keras.tree.flatten(teacher(x, training=False))
        with tf.GradientTape() as tape:
            logits, *features = keras.tree.flatten(student(x, training=True))
            log_t, log_s = tf.nn.log_softmax(target / T), tf.nn.log_softmax(logits / T)
            kl = T**2 * tf.reduce_mean(tf.reduce_sum(tf.exp(log_t) * (log_t - log_s), -1))
            for goal, feature, projection in zip(goals, features, projections):
                feature = feature if projection is None else projection(feature)
                kl += tf.reduce_mean(tf.math.squared_difference(goal, feature))
            loss = (1 - ALPHA) * cross_entropy(y, logits) + ALPHA * kl
        gradients = tape.gradient(loss, [v.value for v in variables])
        optimizer.apply_gradients(zip(gradients, variables))

    def epoch():
        start = now()
        for x, y in data:
            step(x, y)
        return now() - start

    return epoch


def plain(teacher, student, pairs, data):
    student.compile("adam", CROSS_ENTROPY())
    return timed(student.fit, data)


def make_ours(teacher, student, pairs):
    terms = [Term(KLDivergence(temperature=T), name="kd")]
    for i, (ours, theirs) in enumerate(pairs):
        same = student.get_layer(ours).output.shape == teacher.get_layer(theirs).output.shape
        mse, projector = keras.losses.MeanSquaredError(), None if same else "auto"
        terms.append(
            Term(mse, student=ours, teacher=theirs, projector=projector, name=f"feature{i}")
        )
    distiller = Distiller(student, teacher=teacher, terms=terms, alpha=ALPHA)
    distiller.compile("adam", CROSS_ENTROPY())
    return distiller


def ours(teacher, student, pairs, data):
    return timed(make_ours(teacher, student, pairs).fit, data)


def keras_distillation(teacher, student, pairs, data):
    from keras import distillation

    losses = [distillation.LogitsDistillation(T, loss=keras.losses.KLDivergence())]
    losses += [
        distillation.FeatureDistillation(
            keras.losses.MeanSquaredError(), student_layer_name=ours, teacher_layer_name=theirs
        )
        for ours, theirs in pairs
    ]
    distiller = distillation.Distiller(teacher, student, losses, student_loss_weight=1 - ALPHA)
    distiller.compile("adam", CROSS_ENTROPY())
    return timed(distiller.fit, data)


class KerasIODistiller(keras.Model):
    """As in the example at keras.io: the teacher's variables are this model's: it trains them."""

    def __init__(self, teacher, student):
        super().__init__()
        self.teacher, self.student = teacher, student

    def call(self, x, training=None):
        return self.student(x, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        target = keras.ops.softmax(self.teacher(x, training=False) / T)
        kl = keras.losses.KLDivergence()(target, keras.ops.softmax(y_pred / T)) * T**2
        return (1 - ALPHA) * CROSS_ENTROPY()(y, y_pred) + ALPHA * kl


def keras_io(teacher, student, pairs, data):
    distiller = KerasIODistiller(teacher, student)
    distiller.compile("adam")
    return timed(distiller.fit, data)


def evaluate_student(teacher, student, pairs, data):
    student.compile("adam", CROSS_ENTROPY())
    return timed(student.evaluate, data)


def evaluate_ours(teacher, student, pairs, data):
    return timed(make_ours(teacher, student, pairs).evaluate, data)


def arms(workload):
    """`{name: (arm, pairs of layers, reference, goal)}`; the ratio is over the reference."""
    w, at_most, at_least = workload, "<= {}".format, "ours >= {}x faster".format
    table = {"plain student": (plain, [], "floor, logits", None)}
    works = [
        ("logits", [], w.limit, None),
        ("1 feature", w.equal[:1], None, w.faster),
        ("3 features", w.equal, w.limit_features, w.faster),
        (f"{len(w.projected)} projected", w.projected, w.limit_features, None),
    ]
    for work, pairs, limit, faster in works:
        if work == "0 projected":
            continue
        table[f"floor, {work}"] = (floor, pairs, None, None)
        table[f"ours, {work}"] = (ours, pairs, f"floor, {work}", limit and at_most(limit))
        if "projected" not in work:
            goal = faster and at_least(faster)
            table[f"keras.distillation, {work}"] = (
                keras_distillation,
                pairs,
                f"ours, {work}",
                goal,
            )
    table["keras.io style, logits"] = (keras_io, [], "floor, logits", None)
    table["evaluate, student"] = (evaluate_student, [], None, None)
    table["evaluate, ours"] = (evaluate_ours, w.equal, "evaluate, student", at_most(1.05))
    return table


# Measuring and reporting


def measure(workload, rounds, steps):
    """`{arm: [(CPU, wall) seconds per step of each round]}`."""
    epochs = {}
    for name, (arm, pairs, _, _) in arms(workload).items():
        keras.utils.set_random_seed(0)
        epochs[name] = arm(workload.teacher(), workload.student(), pairs, dataset(workload, steps))
        epochs[name]()  # traces
        print(".", end="", file=sys.stderr, flush=True)
    gc.collect()
    gc.freeze()
    taken = {name: [] for name in epochs}
    for i in range(rounds):
        for name in list(epochs) if i % 2 == 0 else reversed(epochs):
            taken[name].append(epochs[name]() / steps)
        print("|", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return taken


def summarize(workload, taken):
    """One row an arm; the ratio is to the arm's reference, the median of the rounds' ratios."""
    rows = []
    for name, (_, _, reference, goal) in arms(workload).items():
        cpu, wall = (1e3 * statistics.median(t[i] for t in taken[name]) for i in (0, 1))
        row = {"arm": name, "cpu_ms": cpu, "wall_ms": wall, "over": reference, "goal": goal}
        if reference:
            ratios = [a / b for a, b in zip(taken[name], taken[reference])]
            row["cpu_ratio"], row["wall_ratio"] = np.median(ratios, axis=0).tolist()
            row["cpu_ratio_quartiles"] = np.percentile(ratios, [25, 75], axis=0)[:, 0].tolist()
        if goal:
            limit = float(re.search(r"[\d.]+", goal).group())
            row["met"] = (row["cpu_ratio"] <= limit) == goal.startswith("<=")
        rows.append(row)
    return rows


def print_table(results):
    form = "{:14} {:30} {:>8} {:>8}  {:>6} {:>11} {:>6}  {:20} {:22} {}"
    print(form.format("workload", "arm", "CPU ms", "wall ms", "CPU x", "(quartiles)", "wall x",
                      "over", "goal (CPU)", "met"))  # fmt: skip
    for workload, rows in results.items():
        for row in rows:
            ratios = ["", "", ""]
            if row["over"]:
                low, high = row["cpu_ratio_quartiles"]
                ratios = [f"{row['cpu_ratio']:.2f}", f"{low:.2f}-{high:.2f}"]
                ratios += [f"{row['wall_ratio']:.2f}"]
            met = {True: "yes", False: "NO", None: ""}[row.get("met")]
            print(form.format(workload, row["arm"], f"{row['cpu_ms']:.2f}", f"{row['wall_ms']:.2f}",
                              *ratios, row["over"] or "", row["goal"] or "", met))  # fmt: skip
        print()


def machine():
    return {
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="default: all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, help="steps an epoch; default: the workload's")
    parser.add_argument("--quick", action="store_true", help="3 rounds, a quarter of the steps")
    parser.add_argument("--json", metavar="FILE", help="also write results and machine here")
    args = parser.parse_args()
    rounds, share = (3, 0.25) if args.quick else (args.rounds, 1)
    print(" ".join(f"{key}={value}" for key, value in machine().items()), f"rounds={rounds}")
    results = {}
    for name in args.workload or WORKLOADS:
        workload = WORKLOADS[name]
        steps = args.steps or max(4, int(workload.steps * share))
        print(f"{name}: {steps} steps, {rounds} rounds ", end="", file=sys.stderr, flush=True)
        results[name] = summarize(workload, measure(workload, rounds, steps))
        keras.backend.clear_session()
    print_table(results)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"machine": machine(), "rounds": rounds, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
