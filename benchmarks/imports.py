"""Times the start: the import of the package, and the first step, which traces.

How it is measured:

- Imports: each runs in a child process, which reports its CPU time since its start, including
  Python's own, and the wall time of the import. "keras" is `import keras` on TensorFlow. Children
  alternate (A B C, C B A, ...). The first round may read from a cold disk and write bytecode, so it
  is dropped. Reported are medians, and ratios within a round. `import keras_distill` is lazy and
  imports nothing by itself, so `import keras` precedes it. The third arm uses `Distiller`, `Term`
  and `losses`.
- First steps: the workloads of `step_overhead.py`, on data of one batch. The time runs from the
  making of the step (the distiller and its `compile`; for the floor its taps and the optimizer's
  variables) to the end of the first step. The first `fit` looks at the first batch, builds, traces
  and runs. Models are new each time, and are made before the clock starts. Rounds alternate as
  above. "plain student" is the first `fit` of the student alone, with its `compile`, which is
  Keras's own time.

    python benchmarks/imports.py [--quick] [--workload=NAME] [--rounds=N] [--json=FILE]
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

IMPORTS = {
    "keras": "import keras",
    "keras, keras_distill": "import keras, keras_distill",
    "keras, its names used": "import keras\nfrom keras_distill import Distiller, Term, losses",
}
CHILD = """
import json, time
started = time.perf_counter()
{}
print(json.dumps([time.process_time(), time.perf_counter() - started]))
"""
IMPORT_GOAL, STEP_GOAL = 1.03, 1.3  # in CPU time


def an_import(code):
    """Returns the CPU and wall seconds of a process that imports."""
    root = str(pathlib.Path(__file__).parents[1])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run([sys.executable, "-c", CHILD.format(code)], check=True, env=environment,
                          capture_output=True, text=True)  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def first_steps(name):
    """Returns `{arm: function}`; each function returns the CPU and wall seconds of a first step."""
    import keras
    from measuring import now
    from step_arms import WORKLOADS, dataset, floor, make_ours

    workload = WORKLOADS[name]

    def fit(teacher, student, pairs, data):
        return lambda: make_ours(teacher, student, pairs).fit(data, verbose=0)

    def alone(teacher, student, pairs, data):
        def run():
            student.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            student.fit(data, verbose=0)

        return run

    def by_hand(teacher, student, pairs, data):
        return lambda: floor(teacher, student, pairs, data)()

    def arm(make, pairs):
        def run():
            keras.utils.set_random_seed(0)
            first = make(workload.teacher(), workload.student(), pairs, dataset(workload, 1))
            started = now()
            first()
            taken = now() - started
            keras.backend.clear_session()
            return taken.tolist()

        return run

    works = {"logits": [], "3 features": workload.equal}
    arms = {f"{who}, {work}": arm(make, pairs) for work, pairs in works.items()
            for who, make in (("floor", by_hand), ("ours", fit))}  # fmt: skip
    return {"plain student, logits": arm(alone, []), **arms}


def alternated(arms, rounds):
    """Returns `{arm: [(CPU, wall)]}` of all rounds but the first."""
    taken = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name in list(arms) if number % 2 else reversed(arms):
            seconds = arms[name]()
            if number:
                taken[name].append(seconds)
        print("|", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return taken


def summarized(taken, reference_of, goal):
    """Returns a row per arm, with the median of its ratios to its reference."""
    rows = []
    for name, times in taken.items():
        cpu, wall = (statistics.median(t[i] for t in times) for i in (0, 1))
        row = {"arm": name, "cpu_s": cpu, "wall_s": wall}
        if (reference := reference_of(name)) != name:
            pairs = list(zip(times, taken[reference]))
            row["cpu_ratio"], row["wall_ratio"] = (
                statistics.median(t[i] / r[i] for t, r in pairs) for i in (0, 1)
            )
            row["goal"] = goal
        rows.append(row)
    return rows


def _floor_of(arm):
    return f"floor, {arm.partition(', ')[2]}"


def print_table(what, rows):
    for row in rows:
        ratios = goal = " | "
        if "cpu_ratio" in row:
            ratios = f"{row['cpu_ratio']:.3f} | {row['wall_ratio']:.3f}"
            met = "yes" if row["cpu_ratio"] <= row["goal"] else "no"
            goal = f"<= {row['goal']:.2f} | {met}"
        print(f"| {what} | {row['arm']} | {row['cpu_s']:.2f} | {row['wall_s']:.2f} | {ratios} | "
              f"{goal} |", flush=True)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", action="append", help="of the first steps; default: all")
    parser.add_argument("--rounds", type=int, default=11, help="how many rounds to measure")
    parser.add_argument("--quick", action="store_true", help="3 rounds, one workload")
    parser.add_argument("--json", metavar="FILE", help="also write results and machine here")
    args = parser.parse_args()
    rounds = 3 if args.quick else args.rounds
    print("| what | arm | CPU s | wall s | CPU ratio | wall ratio | goal (CPU) | met |")
    print("|" + "---|" * 8)
    # before this process is large
    taken = alternated({n: lambda code=c: an_import(code) for n, c in IMPORTS.items()}, rounds)
    results = {"import": summarized(taken, lambda name: "keras", IMPORT_GOAL)}
    print_table("import", results["import"])
    import tensorflow as tf
    from measuring import machine, write_json
    from step_arms import WORKLOADS

    tf.get_logger().setLevel("ERROR")  # each round traces again
    for name in args.workload or list(WORKLOADS)[: 1 if args.quick else None]:
        with warnings.catch_warnings():  # `fit` does not shuffle a dataset
            warnings.simplefilter("ignore")
            taken = alternated(first_steps(name), rounds)
        results[name] = summarized(taken, _floor_of, STEP_GOAL)
        print_table(f"first step, {name}", results[name])
    print(machine())
    if args.json:
        write_json(args.json, rounds=rounds, results=results)


if __name__ == "__main__":
    main()
