"""Measures how cost grows with the rows of a cache, with terms, exits and peers, and with time.

How it is measured:

- *cache*: 10^4 to 10^7 rows of four float16 numbers with a column of integers as keys, in shards of
  10,000 rows. For each size one child process writes and one reads, in batches of 1,024. CPU time
  per row counts all threads, from the first batch on, so that tracing is left out. For up to 10^5
  rows it is the median of three times. The reader takes rows in order, and rows drawn from all over
  the cache, at least 2 * 10^5 and at most 10^6 of them. Memory is the peak above the memory before;
  the memory after includes TensorFlow and all that it traces. "1,000 shards" means 10^4 rows in
  shards of 10.
- *counts*: `fit` with 1, 2, 4 and 8 terms (hints between layers), exits (each with its divergence
  and hint) and peers (each learns from all others; one is a model alone). Reported are milliseconds
  of CPU time per step, as medians of interleaved rounds. "growth" is the cost of one more from 4 to
  8, relative to that from 1 to 4, so 1 is linear.
- *soak*: resident memory at the end of every epoch of one `fit` over a cached, shuffled data set,
  for `--minutes`. The slope is that of a line through the second half.

    python benchmarks/scale.py [cache] [counts] [soak] [--most=ROWS] [--minutes=30] [--quick]
        [--json=FILE]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from cached_epoch import WORKLOADS
from keras import layers
from measuring import machine, memory, now, peak_of, timed, write_json

from keras_distill import CachedTeacher, Distiller, Term, models, recipes
from keras_distill.data import TargetsOnDisk, read_targets, write_targets
from keras_distill.losses import KLDivergence

BATCH = 1024
COUNTS = (1, 2, 4, 8)


# The cache. Each function runs in a child process.


def rows_of(ids):
    """Returns batches of small inputs that are computed from their keys."""

    def made(ids):
        numbers = tf.cast(ids, tf.float32)
        return {"x": tf.stack([numbers % n for n in (1000, 100, 10, 7)], -1), "id": ids}, ids

    return ids.batch(BATCH).map(made)


def write(folder, rows, a_shard):
    """Returns CPU microseconds per row, and the peak in MB."""
    calls = []

    def teacher(x):
        tf.numpy_function(lambda: calls.append(now()), [], [])  # the time at which a batch begins
        return x["x"]

    def run():
        write_targets(teacher, rows_of(tf.data.Dataset.range(rows)), folder, key="id",
                      rows_per_shard=a_shard, fingerprints={"teacher": "x"}, verbose=0)  # fmt: skip

    peak, _ = peak_of(run)
    return {"write_us": 1e6 * (now() - calls[1])[0] / rows, "write_peak_mb": peak}


def read(folder, rows, a_shard):
    """Returns CPU microseconds per row, in order and drawn; seconds to open; the peaks in MB."""
    started = now()
    opened, cache = peak_of(lambda: TargetsOnDisk(folder))
    found = {"open_s": float((now() - started)[0]), "shards": len(cache.shards)}
    count = min(max(rows, 200_000), 1_000_000) // BATCH * BATCH
    drawn = tf.data.Dataset.from_tensor_slices(np.random.default_rng(0).integers(0, rows, count))
    in_order = tf.data.Dataset.range(rows).repeat().take(count)
    peaks = {}
    for name, ids in (("in_order", in_order), ("drawn", drawn)):
        peaks[name], found[f"{name}_us"] = peak_of(lambda ids=ids: a_pass(rows_of(ids), cache))
    return {**found, "open_peak_mb": opened, "read_peak_mb": max(peaks.values())}


def a_pass(data, cache):
    """Returns CPU microseconds per row of all batches but the first, which traces."""
    for number, _ in enumerate(read_targets(data, cache)):
        if number == 0:
            started = now()
    return 1e6 * float((now() - started)[0]) / (number * BATCH)


def in_a_child(part, *arguments):
    """Returns the result of `write` or `read` in a process of its own."""
    command = [sys.executable, __file__, f"--child={part}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def a_size(rows, a_shard=10_000):
    """Returns the row of the table for so many rows; each number is the median of its times."""
    times = 3 if rows <= 100_000 else 1
    found = []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder:
            found.append({part: value for child in ("write", "read")
                          for part, value in in_a_child(child, folder, rows, a_shard).items()})
    row = {name: statistics.median(each[name] for each in found) for name in found[0]}
    return {"rows": rows, **row, "open_s_per_1000": 1000 * row["open_s"] / row["shards"]}


def cache(args):
    """Returns the table of sizes, with ratios to the smallest."""
    sizes = [10**n for n in range(4, 8) if 10**n <= args.most]
    shape = [(rows, 10_000) for rows in sizes] + [(10_000, 10)]
    print("| rows | shards | write us | read us, in order | drawn | open s | of 1,000 shards | "
          "MB to write | to open | to read |\n|" + "---|" * 10)  # fmt: skip
    found = []
    for rows, a_shard in shape:
        row = a_size(rows, a_shard)
        found.append(row)
        print(f"| {rows:,} | {row['shards']:.0f} | {row['write_us']:.2f} | "
              f"{row['in_order_us']:.2f} | {row['drawn_us']:.2f} | {row['open_s']:.3f} | "
              f"{row['open_s_per_1000']:.2f} | {row['write_peak_mb']:.0f} | "
              f"{row['open_peak_mb']:.0f} | {row['read_peak_mb']:.0f} |", flush=True)  # fmt: skip
    for name in ("write_us", "in_order_us", "drawn_us"):
        ratio = found[len(sizes) - 1][name] / found[0][name]
        print(f"{name}: {ratio:.2f} of the smallest's (goal: 0.90 to 1.10)")
    return found


# Counts


def stack(depth, width=256):
    """Returns dense layers of one width, `block0` and so on."""
    x = inputs = keras.Input((width,))
    for number in range(depth):
        x = layers.Dense(width, "relu", name=f"block{number}")(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def with_terms(count):
    hints = [Term("mse", student=f"block{n}", teacher=f"block{n}", name=f"hint{n}")
             for n in range(count)]  # fmt: skip
    return Distiller(stack(9), teacher=stack(9), terms=[Term(KLDivergence()), *hints])


def with_exits(count):
    net = models.add_exits(stack(9), {f"exit{n}": f"block{n}" for n in range(count)})
    return Distiller(net, terms=recipes.byot(net))


def with_peers(count):
    if count == 1:
        return stack(3)
    peers = {f"peer{n}": stack(3) for n in range(count)}
    return Distiller(models.cohort(**peers), terms=recipes.mutual(*peers))


KINDS = {"terms": with_terms, "exits": with_exits, "peers": with_peers}


def counts(args):
    """Returns milliseconds per step by kind and count, and the growth of each kind."""
    steps, rounds = (10, 3) if args.quick else (40, 15)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1024, 256)).astype("float32"), rng.integers(0, 10, 1024)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(256).cache().repeat().take(steps)
    epochs = {}
    for kind, make in KINDS.items():
        for count in COUNTS:
            model = make(count)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile("adam", loss)
            epochs[kind, count] = timed(model.fit, data)
            epochs[kind, count]()  # traces
    taken = {case: [] for case in epochs}
    for number in range(rounds):
        for case in list(epochs) if number % 2 else reversed(epochs):
            taken[case].append(1e3 * epochs[case]()[0] / steps)
    print("| ms a step, with | 1 | 2 | 4 | 8 | growth |\n|" + "---|" * 6)
    return {kind: _growth(kind, taken) for kind in KINDS}


def _growth(kind, taken):
    ms = [statistics.median(taken[kind, count]) for count in COUNTS]
    growth = ((ms[3] - ms[2]) / 4) / ((ms[2] - ms[0]) / 3)
    print(f"| {kind} | " + " | ".join(f"{value:.2f}" for value in ms) + f" | {growth:.2f} |")
    return {"ms": ms, "growth": growth}


# Soak


class Resident(keras.callbacks.Callback):
    """Records resident memory at the end of every epoch; stops when the time is over."""

    def __init__(self, minutes):
        super().__init__()
        self.points, self.started, self.seconds = [], time.time(), 60 * minutes

    def on_epoch_end(self, epoch, logs=None):
        passed = time.time() - self.started
        self.points.append((passed / 3600, memory("VmRSS")))
        self.model.stop_training = passed > self.seconds


def soak(args):
    """Returns points of (hours, MB), and the slope of their second half."""
    workload = WORKLOADS["images"]
    data = tf.data.Dataset.from_tensor_slices(workload.examples(5_000))
    data = data.shuffle(5_000, seed=0).batch(workload.batch)
    resident = Resident(0.5 if args.quick else args.minutes)
    with tempfile.TemporaryDirectory() as folder:
        write_targets(workload.teacher(), data, folder, verbose=0)
        distiller = Distiller(workload.student(), teacher=CachedTeacher())
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile("adam", loss, metrics=["accuracy"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `fit` does not shuffle a dataset
            distiller.fit(read_targets(data, folder), epochs=10**6, verbose=0, callbacks=[resident])
    points = np.array(resident.points)
    slope = float(np.polyfit(*points[len(points) // 2 :].T, 1)[0])
    print("| epoch | minutes | MB resident |\n|---|---|---|")
    for at in np.unique(np.linspace(0, len(points) - 1, 13).astype(int)):
        print(f"| {at + 1} | {60 * points[at, 0]:.1f} | {points[at, 1]:.1f} |")
    print(f"{slope:+.1f} MB an hour over the second half of {len(points)} epochs")
    return {"points": resident.points, "mb_an_hour": slope}


PARTS = {"cache": cache, "counts": counts, "soak": soak}
CHILDREN = {"write": write, "read": read}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="cache, counts, soak; all")
    parser.add_argument("--most", type=int, default=10**7, help="rows of the largest cache")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the soak")
    parser.add_argument("--quick", action="store_true", help="10^5 rows, few steps, half a minute")
    parser.add_argument("--json", metavar="FILE", help="also write results and machine here")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        folder, rows, a_shard = args.parts
        return print(json.dumps(CHILDREN[args.child](folder, int(rows), int(a_shard))))
    if wrong := {*args.parts} - {*PARTS}:
        parser.error(f"parts are {', '.join(PARTS)}. Received: {', '.join(sorted(wrong))}")
    if args.quick:
        args.most = min(args.most, 10**5)
    tf.get_logger().setLevel("ERROR")
    results = {}
    for part in args.parts or PARTS:
        print(f"\n{part}\n")
        results[part] = PARTS[part](args)
    print(machine())
    if args.json:
        write_json(args.json, results=results)


if __name__ == "__main__":
    main()
