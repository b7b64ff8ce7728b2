"""Times an epoch from cached targets, relative to plain training and to the live teacher.

How it is measured:

- One student is trained in several arms with the same labels and batches. *plain* is `student.fit`.
  *cached* is a `Distiller` whose targets `data.read_targets` reads from disk. *live* is one that
  runs the teacher. *by hand* is a loop over one `tf.function` that holds the same targets in
  memory, batch by batch, and logs nothing. For language there is also *cached, fused*, with
  `fused_head=True`, and the same compiled by XLA. `keras.distillation` has no cache. Half the loss
  is cross entropy and half is T^2 KL. The optimizer is Adam. There are no metrics. Inputs are
  shuffled in memory.
- *images*: convolutions on 28 x 28 pixels, ten classes, whole logits as float32. *language*: a
  transformer of two blocks of width 256 that predicts each next of 64 tokens out of 32,768. Its
  targets are the teacher's 32 likeliest tokens and their tail, as float16.
- Each round runs an epoch of every arm, in turn forwards and backwards. The first round traces, and
  is dropped. A ratio is taken within a round. The table reports the median over rounds.
- CPU time is that of the process, with all threads. The goal is in CPU time. Wall time is shown
  too.
- The cache is written to a temporary folder.

    python benchmarks/cached_epoch.py [--quick] [--workload=NAME] [--rounds=N] [--json=FILE]
"""

import argparse
import dataclasses
import functools
import os
import statistics
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from measuring import machine, now, write_json

from keras_distill import CachedTeacher, Distiller, Term
from keras_distill.data import read_targets, write_targets
from keras_distill.losses import KLDivergence

FUSED, BY_XLA = "cached, fused", "cached, fused, XLA"
T = 2.0
WORDS, LENGTH = 32_768, 64


def cnn(widths, convolutions):
    """Returns blocks of 3x3 convolutions on grey images of 28 x 28 pixels."""
    inputs = x = keras.Input((28, 28, 1))
    for width in widths:
        for _ in range(convolutions):
            x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(padding="same")(x)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def transformer(blocks, width, heads=4, words=WORDS):
    """Returns a transformer that predicts each next token."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(words, width)(inputs) + layers.Embedding(LENGTH, width)(np.arange(LENGTH))
    for _ in range(blocks):
        normed = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(heads, width // heads)(
            normed, normed, use_causal_mask=True
        )
        inner = layers.Dense(4 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(width)(inner)
    return keras.Model(inputs, layers.Dense(words)(layers.LayerNormalization()(x)))


def images(examples):
    random = np.random.default_rng(0)
    x = random.normal(size=(examples, 28, 28, 1)).astype("float32")
    return x, random.integers(0, 10, examples)


def texts(examples):
    tokens = np.random.default_rng(0).integers(0, WORDS, (examples, LENGTH + 1)).astype("int32")
    return tokens[:, :-1], tokens[:, 1:]


@dataclasses.dataclass(frozen=True)
class Workload:
    teacher: callable
    student: callable
    examples: callable
    count: int
    batch: int
    kept: dict  # how to write the teacher's targets
    goal: float  # the ratio of cached to plain, in CPU time


WORKLOADS = {
    "images": Workload(
        functools.partial(cnn, (16, 32, 64), 2), functools.partial(cnn, (8, 16, 32), 1),
        images, 20_000, 128, {"dtype": "float32"}, 1.10,
    ),
    "language": Workload(
        functools.partial(transformer, 4, 512), functools.partial(transformer, 2, 256),
        texts, 128, 16, {"dtype": "float16", "top_k": 32, "temperature": T}, 1.15,
    ),
}  # fmt: skip


class ByHand:
    """The cheapest training on a teacher's targets, which are part of the batch."""

    def __init__(self, student, optimizer):
        self.student, self.optimizer = student, optimizer
        optimizer.build(student.trainable_variables)
        self.step = tf.function(self._step)

    def fit(self, data, **_):
        for batch in data:
            loss = self.step(*batch)
        return float(loss)

    def _step(self, x, y, targets):
        with tf.GradientTape() as tape:
            logits = self.student(x, training=True)
            labels = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            divergence = T**2 * tf.reduce_mean(_divergence(targets, logits / T))
            loss = (tf.reduce_mean(labels) + divergence) / 2
        gradients = tape.gradient(loss, self.student.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.student.trainable_variables))
        return loss


def _divergence(targets, logits):
    """Returns the KL from logits, or from the likeliest classes with the rest as one class."""
    student, teacher = tf.nn.log_softmax(logits), targets
    if isinstance(targets, tuple):
        ids, teacher = targets
        kept = tf.gather(student, ids, batch_dims=len(ids.shape) - 1)
        rest = tf.math.log1p(-tf.minimum(tf.reduce_sum(tf.exp(kept), -1, keepdims=True), 1 - 1e-6))
        student = tf.concat([kept, rest], -1)
    return tf.reduce_sum(tf.exp(teacher) * (teacher - student), -1)


def remembered(teacher, data, top_k):
    """Returns the batches in memory, in fixed order, with the teacher's targets as a third part."""

    def with_targets(x, y):
        found = tf.nn.log_softmax(teacher(x, training=False) / T)
        if not top_k:
            return x, y, found
        kept, ids = tf.math.top_k(found, top_k)
        tail = tf.math.log1p(-tf.reduce_sum(tf.exp(kept), -1, keepdims=True))
        return x, y, (ids, tf.concat([kept, tail], -1))

    return data.map(with_targets).cache().prefetch(2)


def arms(workload, count, folder):
    """Returns `{arm: (model, dataset)}`, compiled."""
    data = tf.data.Dataset.from_tensor_slices(workload.examples(count))
    data = data.shuffle(count, seed=0).batch(workload.batch).prefetch(2)
    teacher = workload.teacher()
    write_targets(teacher, data, folder, **workload.kept)
    cached = read_targets(data, folder, teacher=teacher)
    made = {"plain": (workload.student(), data)}
    kinds = [("cached", CachedTeacher(), cached, {}), ("live", teacher, data, {})]
    if "top_k" in workload.kept:
        kinds += [(arm, CachedTeacher(), cached, {"fused_head": True}) for arm in (FUSED, BY_XLA)]
    for name, source, batches, options in kinds:
        terms = [Term(KLDivergence(temperature=T))]
        student = workload.student()
        made[name] = Distiller(student, teacher=source, terms=terms, **options), batches
    for name, (model, _) in made.items():
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(), loss, jit_compile=name == BY_XLA)
    hand = ByHand(workload.student(), keras.optimizers.Adam())
    made["by hand"] = hand, remembered(teacher, data, workload.kept.get("top_k"))
    return made


def epoch(model, data):
    """Returns the CPU and wall seconds of one epoch."""
    started = now()
    model.fit(data, verbose=0)
    return now() - started


def measure(made, rounds):
    """Returns `{arm: [(CPU, wall)]}`, with a pair for each round."""
    for model, data in made.values():
        epoch(model, data)
    taken = {arm: [] for arm in made}
    for number in range(rounds):
        for arm in made if number % 2 else reversed(made):
            taken[arm].append(epoch(*made[arm]))
    return taken


def table(taken):
    """Returns seconds, and ratios to plain training, as medians over rounds."""
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
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="default: all")
    parser.add_argument("--rounds", type=int, default=7, help="how many rounds to measure")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to this file")
    arguments = parser.parse_args()
    results = {}
    print("workload  arm                CPU s an epoch   CPU over plain   wall over plain")
    for name in arguments.workload or WORKLOADS:
        workload = WORKLOADS[name]
        count = workload.count // 4 if arguments.quick else workload.count
        with tempfile.TemporaryDirectory() as folder:
            made = arms(workload, count, folder)
            results[name] = table(measure(made, 3 if arguments.quick else arguments.rounds))
        for arm, row in results[name].items():
            goal = f"   (goal: at most {workload.goal:.2f})" if "cached" in arm else ""
            print(f"{name:9} {arm:18} {row['cpu_seconds']:14.2f} {row['cpu_ratio']:16.3f} "
                  f"{row['wall_ratio']:17.3f}{goal}", flush=True)  # fmt: skip
    print(machine())
    if arguments.json:
        write_json(arguments.json, results=results)


if __name__ == "__main__":
    main()
