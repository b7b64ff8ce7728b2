"""An epoch from cached targets, over plain training of the same student, and the live teacher.

How it is measured:

- One student, three arms with the same labels and batches: *plain* `student.fit`; *cached*, a
  `Distiller` whose targets `data.read_targets` finds on disk; *live*, one that runs the teacher.
  Half the loss is cross entropy, half T^2 KL; Adam; no metrics; inputs in memory, shuffled.
- Each round takes an epoch of every arm, in turn forwards and backwards; the first is thrown away,
  as it traces. A ratio is taken within a round; reported is the median over rounds.
- CPU time is the process's, of all threads; the goal is in CPU time. Wall time is beside it.
- The cache is written to a temporary folder, whole logits as float32 by default.

    python benchmarks/cached_epoch.py [--quick] [--rounds=N] [--dtype=float16] [--json=FILE]
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_distill import CachedTeacher, Distiller, Term
from keras_distill.data import read_targets, write_targets
from keras_distill.losses import KLDivergence

GOAL = 1.10  # cached over plain, in CPU time
ARMS = ("plain", "cached", "live")


def cnn(widths, convolutions):
    """Blocks of 3x3 convolutions on grey images of 28 x 28 pixels."""
    inputs = x = keras.Input((28, 28, 1))
    for width in widths:
        for _ in range(convolutions):
            x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(padding="same")(x)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def images(examples, batch):
    random = np.random.default_rng(0)
    x = random.normal(size=(examples, 28, 28, 1)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, random.integers(0, 10, examples)))
    return data.shuffle(examples, seed=0).batch(batch).prefetch(2)


def arms(data, folder, dtype):
    """`{arm: (model, dataset)}`, compiled."""
    teacher = cnn((16, 32, 64), 2)
    write_targets(teacher, data, folder, dtype=dtype)
    cached = read_targets(data, folder, teacher=teacher)
    made = {"plain": (cnn((8, 16, 32), 1), data)}
    for name, source, batches in (("cached", CachedTeacher(), cached), ("live", teacher, data)):
        terms = [Term(KLDivergence(temperature=2.0))]
        made[name] = Distiller(cnn((8, 16, 32), 1), teacher=source, terms=terms), batches
    for model, _ in made.values():
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(), loss)
    return made


def epoch(model, data):
    """`(CPU seconds, wall seconds)` of one epoch."""
    started = time.process_time(), time.perf_counter()
    model.fit(data, epochs=1, verbose=0)
    return time.process_time() - started[0], time.perf_counter() - started[1]


def measure(made, rounds):
    """`{arm: [(CPU, wall)]}`, a pair a round."""
    for model, data in made.values():
        epoch(model, data)
    taken = {arm: [] for arm in ARMS}
    for number in range(rounds):
        for arm in ARMS if number % 2 else reversed(ARMS):
            taken[arm].append(epoch(*made[arm]))
    return taken


def table(taken):
    """Seconds and ratios over plain training, medians over rounds."""
    rows = {}
    for arm, times in taken.items():
        ratios = [[t[i] / p[i] for t, p in zip(times, taken["plain"])] for i in (0, 1)]
        rows[arm] = {
            "cpu_seconds": statistics.median(t[0] for t in times),
            "cpu_ratio": statistics.median(ratios[0]),
            "wall_ratio": statistics.median(ratios[1]),
            "cpu_ratios": ratios[0],
        }
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few examples and rounds")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dtype", default="float32", choices=("float16", "float32"))
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.examples = 3, 4_000
    with tempfile.TemporaryDirectory() as folder:
        data = images(arguments.examples, arguments.batch)
        rows = table(measure(arms(data, folder, arguments.dtype), arguments.rounds))
    print("arm      CPU s an epoch   CPU over plain   wall over plain")
    for arm, row in rows.items():
        goal = f"   (goal: at most {GOAL:.2f})" if arm == "cached" else ""
        print(f"{arm:8} {row['cpu_seconds']:14.2f} {row['cpu_ratio']:16.3f} "
              f"{row['wall_ratio']:17.3f}{goal}")  # fmt: skip
    if arguments.json:
        about = {"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(),
                 "date": datetime.date.today().isoformat(), "keras": keras.version(),
                 "tensorflow": tf.__version__, **vars(arguments)}  # fmt: skip
        with open(arguments.json, "w") as file:
            json.dump({"about": about, "arms": rows}, file, indent=1)


if __name__ == "__main__":
    main()
