"""Kills commands by a signal at moments drawn by a seed, and sees that what goes on is the same.

    python tests/kills.py [--kills=20] [--seed=0] [--kinds=fit,train,tune,cache,export]

Of each command one run is not killed: it says how long the command takes, and what it ends with.
Then the command is begun, killed at a moment within that time, made again, killed again, until it
has met so many kills. Where it ends before its kill it begins anew in an empty folder. Whatever it
ends with must be the same each time, bit for bit, and nothing may lie there half written.

All shuffle their data and have dropout and a schedule as learning rate. `fit` has a moving teacher,
balanced weights, a projector and a place within the epoch besides, for each kind of data that it
takes. Prints a line a command, and ends with 1 where one differs. About an hour.
"""

import argparse
import hashlib
import io
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile

import h5py
import numpy as np

TESTS = pathlib.Path(__file__).parent
FIT = ("arrays", "dataset", "repeated", "pydataset")  # the kinds of data of `resumed.py`
KINDS = ("fit", "train", "tune", "cache", "export")
EPOCHS = "60"  # of `resumed.py`, so that most kills meet a step
EXPERIMENT = """
import keras, numpy as np, tensorflow as tf
from keras_distill import Experiment, Term, losses

def model(width):
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(width, "relu", name="hint"),
         keras.layers.BatchNormalization(), keras.layers.Dropout(0.2), keras.layers.Dense(3)])

def data(split):
    x = np.random.default_rng(len(split)).normal(size=(2000, 4)).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, x[:, :3].argmax(-1)))
    return (dataset.shuffle(2000) if split == "train" else dataset).batch(8)

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
    ours, out = [sys.executable, "-m", "keras_distill"], folder / "out"
    if kind in FIT:
        return [sys.executable, str(TESTS / "resumed.py"), str(out), kind, EPOCHS]
    return {
        "train": [*ours, "train", f"--experiment={folder / 'tiny.py'}", f"--out={out}", "--resume"],
        "tune": [*ours, "tune", f"--experiment={folder / 'tiny.py'}", f"--out={out}", "--resume",
                 "--sweep", "alpha=0.2,0.9", "--repeats=1", "--leaders=1", "--halvings=1"],
        "cache": [*ours, "cache", "write", str(out), f"--experiment={folder / 'tiny.py'}",
                  f"--teacher={folder / 'teacher.keras'}"],
        "export": [*ours, "export", f"--model={folder / 'teacher.keras'}", f"--out={out}",
                   "--name=m", "--version=1"],
    }[kind]  # fmt: skip


def prepare(folder):
    folder.mkdir()
    (folder / "tiny.py").write_text(EXPERIMENT)
    code = ("import keras, sys; keras.utils.set_random_seed(0); "
            "keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name='hint'),"
            " keras.layers.Dense(3)]).save(sys.argv[1])")  # fmt: skip
    run([sys.executable, "-c", code, str(folder / "teacher.keras")])
    return folder


def run(words, seconds=None):
    """The exit code, killed after so many seconds, and what was said."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env={**os.environ, "PYTHONPATH": path})  # fmt: skip
    try:
        said = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        said = child.communicate()
    return child.returncode, *said


def result(kind, folder, said):
    """What a command has ended with, as far as it must be the same: names and digests."""
    if kind in FIT:
        return {"weights": json.loads(said.splitlines()[-1])[0]}
    out, found = folder / "out", {}
    if kind == "cache":
        found["records"] = records(out)
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if kind == "export" and "/.tmp" in f"/{name}":
            continue  # no server reads it, and nobody knows whether its writer still lives
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
    import tensorflow as tf

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
        code, said, errors = run(words, None if last else rng.uniform(seconds / 4, seconds))
        if kind == "export" and code != -9:  # a folder that is there is whole
            code = 0 if (folder / "out/m/1").exists() else code
        if code not in (0, -9):
            raise RuntimeError(f"{kind} failed after a kill: {errors[-2000:]}")
        met += code == -9
        if code == 0:
            ended += 1
            differs |= {*differences(whole, result(kind, folder, said))}
            shutil.rmtree(folder / "out")
        if last and code == 0:
            return sorted(differs), ended
        if kind == "export" and (folder / "out/m/1").exists():
            differs |= {*differences(whole, result(kind, folder, said))}


def differences(whole, found):
    return [name for name in {*whole, *found} if whole.get(name) != found.get(name)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--kills", type=int, default=20, help="of each; those of fit are shared "
                        "by the kinds of data")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    given, bad = parser.parse_args(), []
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
