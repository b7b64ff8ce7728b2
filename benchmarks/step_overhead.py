"""Times a distiller's `fit` step, relative to a hand-written step that does the same work.

How it is measured:

- Every arm has its own teacher and student, with equal seeds, and the same kind of dataset:
  batched, cached in memory, a fixed number of steps, prefetched. The batch size is not static. All
  are compiled with Adam and a cross entropy from logits, without metrics.
- A *floor* is one `tf.function`: teacher forward outside of the tape, student forward and backward,
  T^2 KL + cross entropy (+ the mean squared error of features, projected if widths differ), Adam. A
  `for` loop calls it. It logs nothing. Ratios are to the floor with the same work.
- `fit` and `evaluate` run with `verbose=0`. Their time runs from the beginning to the end of an
  epoch. It includes the creation of the iterator and the reading of metrics, but not the set-up of
  `fit`. Each round is a new call of `fit`, so a model that traces again at every call shows it
  here.
- The first epoch of each arm traces, and is dropped. Then come rounds (A B C, C B A, ...) with an
  epoch of each arm. Ratios are taken within a round. Reported is the median over rounds.
- CPU time is that of the process, with all threads. Goals are in CPU time. Wall time is shown too.
- `keras.distillation` has no projector, so features are tapped where teacher and student have one
  shape ("1 feature", "3 features"). "3 projected" taps narrower layers of the student, which only
  ours and the floor can do. It gets `KLDivergence()` instances, since its default loss is not KL.
- "relation" is a term of `SimilarityPreserving`, and "attention" one of `AttentionTransfer`.
  "cached" has the teacher's logits in the batch, in memory, and runs no teacher (`cached_epoch.py`
  reads them from disk). "16 steps a call" is `compile(steps_per_execution=16)`.
- "keras.io style" is the well-known example. Its teacher is in the tape and not frozen, so it is
  trained.

    python benchmarks/step_overhead.py [--quick] [--workload=NAME] [--rounds=N] [--json=FILE]
"""

import argparse
import gc
import os
import re
import statistics
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from measuring import machine, write_json
from step_arms import WORKLOADS, arms, dataset


def measure(workload, rounds, steps):
    """Returns `{arm: [(CPU, wall) seconds per step of each round]}`."""
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
    """Returns one row per arm, with the median over rounds of its ratio to the arm's reference."""
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="default: all")
    parser.add_argument("--rounds", type=int, default=9, help="how many rounds to measure")
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
        write_json(args.json, rounds=rounds, results=results)


if __name__ == "__main__":
    main()
