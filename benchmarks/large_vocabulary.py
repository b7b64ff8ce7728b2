"""Measures memory and CPU time of losses of a large vocabulary, relative to a careful plain loss.

How it is measured:

- An arm is one `tf.function`. It goes from hidden states and output embeddings of student and
  teacher to the mean of the labels' cross-entropy and of the KL divergence at temperature 2, and to
  the gradients with respect to the student's hidden states and embeddings. No model runs, since the
  body of a network costs the same in every arm.
- "plain" makes both logits by a product of matrices. It uses TensorFlow's sparse cross-entropy and
  the package's `KLDivergence`, whose gradient comes in one step from two softmaxes.
- "keras.distillation" uses `SparseCategoricalCrossentropy(from_logits=True)` and
  `keras.distillation.LogitsDistillation(temperature=2, loss=KLDivergence())` on the same logits.
- "fused" is `keras_distill.fused.measure`, which `Distiller(fused_head=True)` runs. "top-k" takes a
  teacher's `TopK` with k = 32 instead of its hidden states. "XLA" has `jit_compile=True`.
- Memory is measured on Linux, each arm in a child process. It is the peak of resident memory in the
  second step, less the memory before that step (inputs, weights, the compiled function). A step
  returns freed memory to the system (TensorFlow without its pool, glibc with a fixed threshold);
  otherwise the second step would reuse it unseen. "first" is the same for the first step, which
  loads kernels and, with XLA, the compiler, and compiles. Both include the embeddings' gradient,
  which every arm must return. It has a column of its own, since no loss can do without it.
- Time is the CPU time of the process, with all threads, in interleaved rounds (A B C, C B A, ...).
  Reported are medians over the rounds, of times and of ratios within a round.

    python benchmarks/large_vocabulary.py [--words=131072] [--tokens=1024] [--widths=128,256]
        [--rounds=5] [--json=FILE]
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from measuring import machine, now, peak_of, write_json

from keras_distill import TopK, losses
from keras_distill.fused import Head, measure

K = 32
KL = losses.KLDivergence(temperature=2.0)
GOALS = {
    "fused": (1 / 12, 1.25), "fused, XLA": (1 / 12, 1.25),
    "fused, top-k": (1 / 12, 0.7), "fused, top-k, XLA": (1 / 12, 0.7),
}  # fmt: skip


class Setting:
    """Inputs of one size, seeded."""

    def __init__(self, words, tokens, widths):
        rng = np.random.default_rng(0)

        def normal(rows, width, scale=1.0):
            return tf.constant(rng.standard_normal((rows, width), "float32") * np.float32(scale))

        self.hidden = [normal(tokens, width) for width in widths]
        self.embeddings = [normal(words, width, width**-0.5) for width in widths]
        self.labels = tf.constant(rng.integers(0, words, tokens), tf.int32)
        ids = np.stack([rng.choice(words, K, replace=False) for _ in range(tokens)])
        mass = rng.dirichlet(np.ones(K + 1), tokens).astype("float32")
        self.top = TopK(tf.constant(ids, tf.int32), *map(tf.constant, _logs(mass)), 2.0)

    def logits(self, side):
        return tf.matmul(self.hidden[side], self.embeddings[side], transpose_b=True)

    def head(self, side):
        return Head(self.hidden[side], self.embeddings[side])


def _logs(mass):
    return np.log(mass[:, :-1] + 1e-9), np.log(mass[:, -1] + 1e-9)


def plain(setting):
    student, teacher = setting.logits(0), tf.stop_gradient(setting.logits(1))
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(setting.labels, student)
    return tf.reduce_mean(entropy) + tf.reduce_mean(KL.call(teacher, student))


def peer(setting):
    student, teacher = setting.logits(0), tf.stop_gradient(setting.logits(1))
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distillation = keras.distillation.LogitsDistillation(2.0, loss=keras.losses.KLDivergence())
    return entropy(setting.labels, student) + distillation.compute_loss(teacher, student)


def fused(setting, teacher=None):
    found = measure(setting.head(0), labels=setting.labels,
                    teacher=teacher or setting.head(1), loss=KL)  # fmt: skip
    return tf.reduce_mean(found.cross_entropy) + tf.reduce_mean(found.divergence)


def top_k(setting):
    return fused(setting, setting.top)


ARMS = {
    "plain": (plain, False),
    "plain, XLA": (plain, True),
    "keras.distillation": (peer, False),
    "fused": (fused, False),
    "fused, XLA": (fused, True),
    "fused, top-k": (top_k, False),
    "fused, top-k, XLA": (top_k, True),
}


def compiled(name, setting):
    """Returns the step of an arm, as a function of TensorFlow."""
    function, xla = ARMS[name]
    learned = [setting.hidden[0], setting.embeddings[0]]

    @tf.function(jit_compile=xla)
    def run():
        with tf.GradientTape() as tape:
            tape.watch(learned)
            total = function(setting)
        return total, tape.gradient(total, learned)

    return run


def step(name, setting):
    """Returns the compiled step of an arm, traced and run once."""
    run = compiled(name, setting)

    def wait():
        return float(run()[0])

    wait()
    return wait


def memory_of(name, size):
    """Returns the MB at the peaks of the first and second step, less the memory before each."""
    run = compiled(name, Setting(*size))
    run.get_concrete_function()  # traces
    peaks = []
    for _ in range(2):
        gc.collect()
        peaks.append(peak_of(lambda: float(run()[0]))[0])
    return peaks


def memory_in_a_child(name, size):
    numbers = [str(size[0]), str(size[1]), ",".join(map(str, size[2]))]
    command = [sys.executable, __file__, f"--memory-of={name}", f"--words={numbers[0]}",
               f"--tokens={numbers[1]}", f"--widths={numbers[2]}"]  # fmt: skip
    environment = {**os.environ, "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1",
                   "MALLOC_MMAP_THRESHOLD_": "65536"}  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def times(size, rounds):
    """Returns `{arm: CPU seconds of each round}`."""
    setting = Setting(*size)
    runs = {name: step(name, setting) for name in ARMS}
    taken = {name: [] for name in ARMS}
    for i in range(rounds):
        for name in list(ARMS) if i % 2 == 0 else reversed(ARMS):
            start = now()
            runs[name]()
            taken[name].append(float((now() - start)[0]))
        print("|", end="", file=sys.stderr, flush=True)
    return taken


def measured(size, rounds, memory):
    """Returns the rows of one size, for the arms with known memory."""
    words, _, widths = size
    taken = times(size, rounds)
    rows = []
    for name in ARMS:
        ratio = statistics.median(a / b for a, b in zip(taken[name], taken["plain"]))
        row = {
            "words": words,
            "widths": "/".join(map(str, widths)),
            "arm": name,
            "first_mb": memory[name][0],
            "peak_mb": memory[name][1],
            "gradient_mb": 4 * words * widths[0] / 2**20,
            "memory_ratio": memory[name][1] / memory["plain"][1],
            "peer_ratio": memory[name][1] / memory["keras.distillation"][1],
            "cpu_s": statistics.median(taken[name]),
            "cpu_ratio": ratio,
        }
        if name in GOALS:
            row["met"] = [row["memory_ratio"] <= GOALS[name][0], ratio <= GOALS[name][1]]
        rows.append(row)
    return rows


def print_table(rows):
    print("| words | widths | arm | first MB | peak MB | of it the gradient | of plain | "
          "of keras.distillation | CPU s | of plain | goal: memory | goal: CPU |")  # fmt: skip
    print("|" + "---|" * 12)
    for row in rows:
        goals = ["yes" if met else "no" for met in row["met"]] if "met" in row else ["", ""]
        sizes = ("first_mb", "peak_mb", "gradient_mb")
        cells = [row["arm"], *(f"{row[name]:.0f}" for name in sizes),
                 *(f"{row[name]:.3f}" for name in ("memory_ratio", "peer_ratio")),
                 *(f"{row[name]:.2f}" for name in ("cpu_s", "cpu_ratio")), *goals]  # fmt: skip
        print(f"| {row['words']:,} | {row['widths']} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--words", type=int, action="append", help="default: 131072 and 262144")
    parser.add_argument("--tokens", type=int, default=1024, help="the tokens of a batch")
    parser.add_argument("--widths", default="128,256", help="of student and teacher")
    parser.add_argument("--rounds", type=int, default=5, help="how many rounds to measure")
    parser.add_argument("--json", metavar="FILE", help="also write results and machine here")
    parser.add_argument("--memory-of", choices=ARMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    widths = tuple(int(width) for width in args.widths.split(","))
    sizes = [(words, args.tokens, widths) for words in args.words or (131072, 262144)]
    if args.memory_of:
        return print(json.dumps(memory_of(args.memory_of, sizes[0])))
    print(" ".join(f"{key}={value}" for key, value in machine().items()), f"rounds={args.rounds}")
    # before any timing, since this process keeps freed memory
    memory = [{name: memory_in_a_child(name, size) for name in ARMS} for size in sizes]
    rows = [row for size, peaks in zip(sizes, memory) for row in measured(size, args.rounds, peaks)]
    print(file=sys.stderr)
    print_table(rows)
    if args.json:
        write_json(args.json, rounds=args.rounds, tokens=args.tokens, results=rows)


if __name__ == "__main__":
    main()
