"""Compares tuned Fashion-MNIST students with the student alone and `keras.distillation`.

The teacher is that of `examples/fashion_mnist.py`, trained on all images unless `--teacher` is
given.
For a student of 5,000 and one of 48,000 parameters:

1. `keras_distill.experiments.tuning.tune` chooses recipe, temperature, alpha and epochs by the
   validation split (the last 5,000 training images). `--setting` gives recipe, temperature and
   alpha instead, and nothing is searched.
2. `keras.distillation.Distiller` gets the winner's epochs, the same temperatures and shares of the
   labels, and the loss that makes it Hinton's (`keras.losses.KLDivergence()`). Its best setting is
   the best of these on the validation split. Its default is that of its constructors.
3. Each arm is trained over new seeds: the student alone, the winner, `keras.distillation` by
   default and at its best. All have the winner's epochs and, for each seed, the same initial
   weights and order of the data. They are measured on the test split.

`keras.distillation` reads the teacher's logits from memory (`peer.py`).

Every trained student's numbers are saved as soon as they are known, so the same command continues
an interrupted run. `DIR` holds the four idx `.gz` files.

    python benchmarks/tuned_students.py --data=DIR --out=runs/tuned [--teacher=FILE] \
        [--students 5k 48k] [--seeds=5] [--epochs=20,40] [--limit=N] [--setting dist 4 0.5]
"""

import argparse
import functools
import itertools
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from measuring import machine
from peer import keras_distiller

from keras_distill import report
from keras_distill.data import read_targets
from keras_distill.experiments import cached
from keras_distill.experiments.file import load_experiment
from keras_distill.experiments.run_folder import RUN, write_json
from keras_distill.experiments.tuning import chosen, tune
from keras_distill.experiments.tuning.settings import shown

FILE = pathlib.Path(__file__).parents[1] / "examples" / "fashion_mnist.py"
WIDTHS = {"5k": 1.0, "48k": 3.5}
TEMPERATURES = [1.0, 2.0, 4.0]
ALPHAS = [0.25, 0.5, 0.9]
FIRST = 100  # the first seed of the comparison
DEFAULT = {"temperature": 3.0, "labels": 0.5, "divergence": False}


def trained_teacher(arguments):
    """Returns the teacher's file, and trains it unless it exists; finished epochs are kept."""
    path = pathlib.Path(arguments.out) / "teacher.keras"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.set_random_seed(0)
        experiment = load_experiment(FILE, {"data": arguments.data})
        model = experiment.teacher()
        model.compile(experiment.teacher_optimizer(), experiment.loss, metrics=["accuracy"])
        backup = keras.callbacks.BackupAndRestore(path.with_suffix(".backup"))
        model.fit(experiment.data("train"), epochs=experiment.teacher_epochs, shuffle=False,
                  verbose=2, callbacks=[backup])  # fmt: skip
        part = path.with_suffix(".part.keras")
        model.save(part)
        part.replace(path)
        print(f"{path}: {report.measure(model, experiment.data('test'))['accuracy']:.4f}")
    return str(path)


def of_setting(options, teacher, arguments):
    """Returns the experiment of `--setting`, and its setting; writes the teacher's targets."""
    recipe, temperature, alpha = arguments.setting
    setting = {"recipe": recipe, "temperature": float(temperature), "alpha": float(alpha),
               "epochs": arguments.epochs[0]}  # fmt: skip
    experiment = chosen(FILE, setting, **options)
    cache = f"{arguments.out}/targets"
    cached.prepare(teacher, experiment.data("train"), cache, experiment.teacher_paths(teacher))
    return experiment, setting


def tuned(size, teacher, arguments):
    """Returns the winner's experiment and its setting; tunes them unless they are on disk."""
    folder = pathlib.Path(arguments.out) / size / "tune"
    options = {"data": arguments.data, "width": WIDTHS[size], "limit": arguments.limit}
    if arguments.setting:
        return of_setting(options, teacher, arguments)
    sweep = {"recipe": ["hinton", "dist"], "temperature": TEMPERATURES, "alpha": ALPHAS,
             "epochs": arguments.epochs}  # fmt: skip
    if not (folder / "ranking.json").exists():
        tune(FILE, folder, sweep, options=options, teacher=arguments.teacher,
             cache=str(pathlib.Path(arguments.out) / "targets"),
             resume=(folder / RUN).exists(), command=" ".join(sys.argv))  # fmt: skip
    rows = json.loads((folder / "ranking.json").read_text())["rows"]
    return load_experiment(folder / "winner.py", {}), rows[0]["setting"]


def keras_distillation(experiment, cache, seed, temperature, labels, divergence):
    """Returns a student that `keras.distillation` has trained."""
    keras.utils.set_random_seed(seed)
    data = read_targets(experiment.data("train"), cache)
    student = experiment.student()
    model = keras_distiller(student, temperature, labels, divergence)
    model.compile(experiment.optimizer(), experiment.loss)
    given = data.map(lambda x, y: ({"x": x, "logits": y.targets["output"]}, y.labels))
    model.fit(given, epochs=experiment.epochs, shuffle=False, verbose=0)
    return student


def ours(experiment, cache, seed, arm, teacher):
    """Returns a student alone or distilled, as `train` trains it."""
    student, model, data = experiment.prepared(arm, seed, teacher, cache)
    model.fit(data, epochs=experiment.epochs, shuffle=False, verbose=0)
    return student


def known(path, make, data):
    """Returns the content of a file, or writes and returns the result of `make()` on `data`."""
    if not path.exists():
        keras.backend.clear_session()
        started = time.time()
        measured = report.measure(make(), data)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**measured, "seconds": time.time() - started})
        print(f"{path}: {100 * measured['accuracy']:.2f}%", flush=True)
    return json.loads(path.read_text())


def best_of_the_peer(folder, experiment, cache):
    """Returns the setting of `keras.distillation` that is best on the validation split."""
    found = {}
    for temperature, alpha in itertools.product(TEMPERATURES, ALPHAS):
        setting = {"temperature": temperature, "labels": 1 - alpha, "divergence": True}
        name = folder / "peer" / f"{temperature}-{alpha}.json"
        train = functools.partial(keras_distillation, experiment, cache, 0, **setting)
        score = known(name, train, experiment.data("valid"))["accuracy"]
        found[score] = setting
    return found[max(found)]


def compared(size, arguments):
    """Returns `{arm: test accuracies}` of one student, and its chosen setting."""
    folder, cache = pathlib.Path(arguments.out) / size, f"{arguments.out}/targets"
    teacher = keras.saving.load_model(arguments.teacher, compile=False)
    experiment, setting = tuned(size, teacher, arguments)

    def tested(arm, train):
        """Returns the test accuracies of an arm's seeds."""
        for seed in range(FIRST, FIRST + arguments.seeds):
            path = folder / "test" / f"{arm.replace(', ', '-')}-{seed}.json"
            made = functools.partial(train, experiment, cache, seed)
            yield known(path, made, experiment.data("test"))["accuracy"]

    found = {"alone": [*tested("alone", functools.partial(ours, arm="alone", teacher=teacher))]}
    taught = functools.partial(ours, arm="distilled", teacher=teacher)
    found["tuned"] = [*tested("tuned", taught)]
    peer = best_of_the_peer(folder, experiment, cache)
    for name, options in (("default", DEFAULT), ("best", peer)):
        arm = f"keras.distillation, {name}"
        found[arm] = [*tested(arm, functools.partial(keras_distillation, **options))]
    return found, {"tuned": setting, "peer": peer}


def table(size, accuracies):
    """Returns rows of percent on the test split, with paired gains over the student alone."""
    for arm, values in accuracies.items():
        gains = 100 * np.subtract(values, accuracies["alone"])
        error = gains.std(ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
        spread = 100 * np.std(values, ddof=1) if len(gains) > 1 else float("nan")
        gain = "" if arm == "alone" else f"{gains.mean():+.2f} ± {error:.2f}"
        yield f"| {size} | {arm} | {100 * np.mean(values):.2f} ± {spread:.2f} | {gain} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, metavar="DIR", help="Fashion-MNIST's idx files")
    parser.add_argument("--teacher", metavar="FILE", help="a .keras file; trained by default")
    parser.add_argument("--out", required=True, metavar="DIR",
                        help="where the run is written, and goes on")  # fmt: skip
    parser.add_argument("--students", nargs="+", choices=WIDTHS, default=list(WIDTHS),
                        help="the students to train (default: all)")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds to run")
    parser.add_argument("--epochs", default="20,40", help="the budgets to try")
    parser.add_argument("--limit", type=int, help="only the first examples of each split")
    parser.add_argument(
        "--setting", nargs=3, metavar=("RECIPE", "TEMPERATURE", "ALPHA"),
        help="train this setting instead of a search, for the first of --epochs",
    )  # fmt: skip
    arguments = parser.parse_args()
    arguments.epochs = [int(part) for part in arguments.epochs.split(",")]
    arguments.teacher = arguments.teacher or trained_teacher(arguments)
    rows, chosen = [], {}
    for size in arguments.students:
        accuracies, chosen[size] = compared(size, arguments)
        rows += table(size, accuracies)
        found = {"machine": machine(), "accuracies": accuracies, "chosen": chosen[size]}
        write_json(pathlib.Path(arguments.out) / f"{size}.json", found)
    print("\n| student | arm | test accuracy %, ± deviation | gain, points ± standard error |")
    print("\n".join(["|---|---|---|---|", *rows]))
    for size, settings in chosen.items():
        print(f"{size}: tuned: {shown(settings['tuned'])}; keras.distillation: {settings['peer']}")


if __name__ == "__main__":
    main()
