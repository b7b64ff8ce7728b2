"""Measures time and memory of each loss, relative to a mean squared error of the same features.

How it is measured:

- A step is one `tf.function`: the mean of the loss's values, and the gradient with respect to all
  of the student's side. The mean squared error does the same with the same tensors of the student,
  against other tensors of these shapes. No model runs, so only the loss is measured.
- Shapes are realistic: 128 examples of 1,000 classes or embeddings of 512 numbers (64 if triples
  are compared), 32 feature maps of 14 x 14 x 256, 8 sequences of 128 tokens, 8 images of 64 x 64
  pixels.
- Each loss alternates with its mean squared error, one round of each in turn (A B, B A, ...).
  Reported is the CPU time of the process, with all threads: medians, and the median of the rounds'
  ratios.
- "grows" is the ratio of the median times at twice the batch and at the batch. "at most" is what
  the formula requires: 2 for examples by themselves, 4 for pairs of a batch, 8 for triples, times
  the growth of the mean squared error beyond 2, which caches cause. Up to 40% more is accepted.
  Constant costs lower the growth.
- Extra memory is measured on Linux, in a child process for each loss. It is the peak of resident
  memory during steps of the loss, less that during earlier steps of the mean squared error. Both
  are traced before. An allocator reuses pages that it keeps from tracing, so less than some 10 MB
  may show as 0. On other systems the column is empty.

    python benchmarks/losses.py [--quick] [--loss=NAME] [--rounds=N] [--json=FILE]

`--quick` takes 3 rounds and leaves the memory out.
"""

import argparse
import functools
import os
import pathlib
import re
import statistics
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from loss_shapes import CASES
from measuring import machine, now, write_json

TOLERANCE = 1.4


def step(function, student):
    """Returns a compiled step of `function(student)` and its gradient."""

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = tf.reduce_mean(function(student))
        return value, tape.gradient(value, student)

    def wait():
        return run()[0].numpy()

    wait()  # traces
    return wait


def squared_error(student, others):
    """Returns the mean squared error over all tensors of both structures."""
    pairs = zip(keras.tree.flatten(student), keras.tree.flatten(others))
    return sum(tf.reduce_mean(tf.square(one - other)) for one, other in pairs)


def steps(case, batch):
    """Returns `(step of the mean squared error, step of the loss)`."""
    keras.utils.set_random_seed(0)
    student, call = case.made(batch)
    others = keras.tree.map_structure(lambda x: tf.random.normal(x.shape), student)
    plain = step(functools.partial(squared_error, others=others), student)
    return plain, step(call, student)


def timed(run, repeats):
    start = now()
    for _ in range(repeats):
        run()
    return 1e3 * float((now() - start)[0]) / repeats


def rounds_of(pair, rounds):
    """Returns CPU milliseconds per step, a pair for each round of a tenth of a second."""
    repeats = [max(1, min(50, round(100 / max(timed(run, 1), 0.1)))) for run in pair]
    taken = []
    for i in range(rounds):
        order = (0, 1) if i % 2 == 0 else (1, 0)
        found = {which: timed(pair[which], repeats[which]) for which in order}
        taken.append((found[0], found[1]))
    return taken


def measure(name, rounds):
    """Returns one row of the table, without the memory."""
    case = CASES[name]
    taken = rounds_of(steps(case, case.batch), rounds)
    plain, ours = (statistics.median(column) for column in zip(*taken))
    doubled = rounds_of(steps(case, 2 * case.batch), rounds)
    growth = [statistics.median(column) for column in zip(*doubled)]
    plain_grows, grows = growth[0] / plain, growth[1] / ours
    at_most = 2 ** (case.order - 1) * max(2.0, plain_grows)
    return {
        "loss": name,
        "shape": case.shape,
        "mse_ms": plain,
        "loss_ms": ours,
        "ratio": statistics.median(b / a for a, b in taken),
        "grows": grows,
        "at_most": at_most,
        "met": bool(grows <= TOLERANCE * at_most),
    }


def peak(run):
    """Returns the peak MB of resident memory in three steps of `run`, by Linux's own count."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    for _ in range(3):
        run()
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024


def extra_memory(name):
    """Returns the MB that the loss takes beyond the mean squared error, in this process."""
    plain, ours = steps(CASES[name], CASES[name].batch)
    before = peak(plain)
    return peak(ours) - before


def in_a_child(name):
    done = subprocess.run([sys.executable, __file__, f"--memory-of={name}"], check=True,
                          capture_output=True, text=True)  # fmt: skip
    return float(done.stdout.splitlines()[-1])


def print_table(rows):
    form = "{:26} {:24} {:>9} {:>9} {:>7} {:>8} {:>6} {:>7} {}"
    print(form.format("loss", "student's side", "MSE ms", "loss ms", "x MSE", "extra MB", "grows",
                      "at most", "met"))  # fmt: skip
    for row in rows:
        memory = "-" if row.get("extra_mb") is None else f"{row['extra_mb']:.0f}"
        print(form.format(row["loss"], row["shape"], f"{row['mse_ms']:.2f}",
                          f"{row['loss_ms']:.2f}", f"{row['ratio']:.1f}", memory,
                          f"{row['grows']:.1f}", f"{row['at_most']:.1f}",
                          "yes" if row["met"] else "NO"))  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", action="append", choices=CASES, help="default: all")
    parser.add_argument("--rounds", type=int, default=9, help="how many rounds to measure")
    parser.add_argument("--quick", action="store_true", help="3 rounds, no memory")
    parser.add_argument("--json", metavar="FILE", help="also write results and machine here")
    parser.add_argument("--memory-of", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        return print(extra_memory(args.memory_of))
    rounds = 3 if args.quick else args.rounds
    print(" ".join(f"{key}={value}" for key, value in machine().items()), f"rounds={rounds}")
    with_memory = sys.platform == "linux" and not args.quick
    rows = []
    for name in args.loss or CASES:
        print(".", end="", file=sys.stderr, flush=True)
        rows.append(measure(name, rounds))
        rows[-1]["extra_mb"] = in_a_child(name) if with_memory else None
        keras.backend.clear_session()
    print(file=sys.stderr)
    print_table(rows)
    if args.json:
        write_json(args.json, rounds=rounds, results=rows)


if __name__ == "__main__":
    main()
