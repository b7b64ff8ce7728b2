"""Kills commands by a signal at moments drawn by a seed, and sees that what goes on is the same.

    python tests/kills.py [--kills=20] [--seed=0] [--kinds=fit,train,tune,cache,export]

Of each command one run is not killed: it says how long the command takes, and what it ends with.
Then the command is begun, killed at a moment within that time, made again, killed again, until it
has met so many kills. Where it ends before its kill it begins anew in an empty folder. Whatever it
ends with must be the same each time, bit for bit, and nothing may lie there half written.

All shuffle their data and have dropout and a schedule as learning rate. `fit` has a moving teacher,
balanced weights, a projector and a place within the epoch besides, for each kind of data that it
takes. Prints a line a command, and ends with 1 where one differs.

The commands are forked from a process that has imported all of it, so that the kills meet the work
and not the imports. A killed export may leave a folder, which the next export removes.
"""

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import pathlib
import random
import runpy
import shutil
import sys
import tempfile
import time
import zipfile

import h5py
import keras
import numpy as np
import tensorflow as tf

TESTS = pathlib.Path(__file__).parent
FIT = ("arrays", "dataset", "repeated", "pydataset", "unknown")  # the kinds of data of `resumed.py`
KINDS = ("fit", "train", "tune", "cache", "export")
IMPORTED = ["tensorflow", "matplotlib.figure", "keras_distill.experiments.tuning",
            "keras_distill.cli.program"]  # fmt: skip
EPOCHS = "60"  # of `resumed.py`, so that most kills meet a step
EXPERIMENT = """
import keras, numpy as np, tensorflow as tf
from keras_distill import Experiment, Term, losses

def model(width):
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(width, "relu", name="hint"),
         keras.layers.BatchNormalization(), keras.layers.Dropout(0.2), keras.layers.Dense(3)])

def data(split):
    x = np.random.default_rng(len(split)).normal(size=(400, 4)).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, x[:, :3].argmax(-1)))
    return (dataset.shuffle(400) if split == "train" else dataset).batch(8)

def terms(student, teacher):
    weight = keras.optimizers.schedules.PolynomialDecay(1.0, 500, 0.1)
    return [Term(losses.KLDivergence(2.0)),
            Term("mse", student="hint", teacher="hint", projector="auto", weight=weight)]

def experiment(seeds=2, units=2, epochs=2):
    rate = keras.optimizers.schedules.CosineDecay(0.01, 500)
    return Experiment("tiny", student=lambda: model(units), teacher=lambda: model(8), data=data,
        terms=terms, optimizer=lambda: keras.optimizers.Adam(rate), epochs=epochs, seeds=seeds,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
"""


def command(kind, folder):
    """The words of a command that may be made again, and whose result is in `folder / "out"`."""
    out, experiment = folder / "out", f"--experiment={folder / 'tiny.py'}"
    if kind in FIT:
        return [str(TESTS / "resumed.py"), str(out), kind, EPOCHS]
    return {
        "train": ["train", experiment, f"--out={out}", "--resume"],
        "tune": ["tune", experiment, f"--out={out}", "--resume", "--sweep", "alpha=0.2,0.9",
                 "--repeats=1", "--leaders=1", "--halvings=1"],
        "cache": ["cache", "write", str(out), experiment,
                  f"--teacher={folder / 'teacher.keras'}"],
        "export": ["export", f"--model={folder / 'teacher.keras'}", f"--out={out}", "--name=m",
                   "--version=1"],
    }[kind]  # fmt: skip


def prepare(folder):
    """Makes a folder with an experiment and a teacher."""
    folder.mkdir()
    (folder / "tiny.py").write_text(EXPERIMENT)
    keras.utils.set_random_seed(0)
    teacher = keras.Sequential([
        keras.Input((4,)), keras.layers.Dense(8, name="hint"), keras.layers.Dense(3),
    ])  # fmt: skip
    teacher.save(folder / "teacher.keras")
    return folder


def run(words, seconds=None):
    """The exit code, killed after so many seconds, and what was said."""
    with tempfile.TemporaryDirectory() as place:
        said = [pathlib.Path(place) / name for name in ("stdout", "stderr")]
        child = multiprocessing.get_context("forkserver").Process(target=made, args=(words, said))
        child.start()
        child.join(seconds)
        child.kill()
        child.join()
        return child.exitcode, *[each.read_text() if each.exists() else "" for each in said]


def made(words, said):
    """What the process does: a script or a command, whose output goes into files."""
    for number, path in zip((1, 2), said):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    np.random.seed()  # Python's own random numbers begin anew in each fork
    if words[0].endswith(".py"):
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
    else:
        sys.argv = ["keras_distill", *words]
        from keras_distill.cli.main import main

        sys.exit(main())


def result(kind, folder, said):
    """What a command has ended with, as far as it must be the same: names and digests."""
    if kind in FIT:
        return {"weights": json.loads(said.splitlines()[-1])[0]}
    out, found = folder / "out", {}
    if kind == "cache":
        found["records"] = records(out)
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if "unfinished" in name or path.name.startswith(".tmp"):
            found[name] = "half written"
        elif path.suffix == ".keras":
            found[name] = weights(path)
        elif path.name == "variables.index":
            found[name] = variables(path.with_suffix(""))
        elif path.name == "ranking.json":
            found[name] = [row["accuracies"] for row in json.loads(path.read_text())["rows"]]
        elif path.is_file() and not path.name.startswith(".") and kind != "cache":
            found[name] = "there"
    return found


def weights(path):
    """A digest of the arrays of a model's file, which also holds dates and layers' names."""
    arrays = {}
    with h5py.File(io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5")), "r") as file:
        file.visititems(lambda name, part: arrays.setdefault(name, part[()].tobytes())
                        if isinstance(part, h5py.Dataset) else None)  # fmt: skip
    return digest(repr(sorted(arrays.items())).encode())


def variables(path):
    """A digest of the variables of a SavedModel, whose files also hold layers' names."""
    reader = tf.train.load_checkpoint(str(path))
    arrays = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()
              if not name.startswith("_CHECKPOINTABLE")}  # fmt: skip
    return digest(b"".join(sorted(np.asarray(value).tobytes() for value in arrays.values())))


def records(folder):
    """A digest of all records of a cache, whatever order they were written in."""
    from keras_distill.data import TargetsOnDisk

    cache = TargetsOnDisk(folder)
    cache.verify()
    hashes = cache.index["hash"][cache.order]
    return digest(b"".join(cache.lookup(cache.keys, hashes)))


def digest(content):
    return hashlib.sha256(content).hexdigest()


def killed(kind, folder, kills, seconds, rng, whole):
    """`(names of what differs, how often the command ended)` over so many kills."""
    words, met, ended, differs = command(kind, folder), 0, 0, set()
    while True:
        last = met == kills
        code, said, errors = run(words, None if last else rng.uniform(0, seconds))
        killed_late = kind == "export" and code == -9 and (folder / "out/m/1").exists()
        if killed_late:  # it has its name, and the next version removes what may be left
            code, _, errors = run([*words[:-1], "--version=2"])
            shutil.rmtree(folder / "out/m/2", ignore_errors=True)
            met += 1
        if code not in (0, -9):
            raise RuntimeError(f"{kind} failed after a kill: {errors[-2000:]}")
        met += code == -9
        if code == 0:
            ended += 1
            differs |= {*differences(whole, result(kind, folder, said))}
            shutil.rmtree(folder / "out")
        if last and code == 0:
            return sorted(differs), ended


def differences(whole, found):
    return [name for name in {*whole, *found} if whole.get(name) != found.get(name)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default=",".join(KINDS),
                        help="the commands to kill, joined by commas")  # fmt: skip
    parser.add_argument("--kills", type=int, default=20, help="of each; those of fit are shared "
                        "by the kinds of data")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="the seed of the moments")
    given, bad = parser.parse_args(), []
    sys.path[:0] = [str(TESTS.parent), str(TESTS)]
    multiprocessing.set_forkserver_preload(IMPORTED)
    run(["train", "--help"])  # the first one waits for the imports
    kinds = [each for kind in given.kinds.split(",")
             for each in (FIT if kind == "fit" else (kind,))]  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        for kind in kinds:
            rng = random.Random(f"{given.seed} {kind}")  # the same alone
            folder = prepare(pathlib.Path(place) / f"{kind}-whole")
            started = time.monotonic()
            code, said, errors = run(command(kind, folder))
            seconds = time.monotonic() - started
            if code:
                raise RuntimeError(f"{kind} failed: {errors[-2000:]}")
            whole = result(kind, folder, said)
            folder = prepare(pathlib.Path(place) / f"{kind}-killed")
            kills = -(-given.kills // len(FIT)) if kind in FIT else given.kills
            differs, ended = killed(kind, folder, kills, seconds, rng, whole)
            print(f"{kind}: {kills} kills within {seconds:.1f} s each, ended {ended} times: "
                  f"{', '.join(differs) or 'the same'}", flush=True)  # fmt: skip
            bad += [kind] if differs else []
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
