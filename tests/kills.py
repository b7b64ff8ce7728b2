"""Kills processes by a signal at moments drawn by a seed, and sees that what goes on is the same.

    python tests/kills.py [--kills=20] [--seed=0] [fit train tune cache export]

Of each command one run is not killed: it says how long the command takes, and what it ends with.
Then the command is killed so often, each time at a moment within that time, made again after each
kill, and at last left to end. What it ends with must be the same, bit for bit, and nothing may lie
there half written. Prints a line a command, and ends with 1 where one differs. Minutes to an hour.
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import zipfile

import numpy as np

TESTS = pathlib.Path(__file__).parent
EXPERIMENT = """
import keras, numpy as np, tensorflow as tf
from keras_distill import Experiment

def model(width):
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(width, "relu"), keras.layers.Dropout(0.2),
         keras.layers.Dense(3)])

def data(split):
    x = np.random.default_rng(len(split)).normal(size=(2000, 4)).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, x[:, :3].argmax(-1)))
    return (dataset.shuffle(2000) if split == "train" else dataset).batch(8)

def experiment(seeds=2, units=2, epochs=2):
    return Experiment("tiny", student=lambda: model(units), teacher=lambda: model(8), data=data,
        optimizer=keras.optimizers.Adam, epochs=epochs, seeds=seeds,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
"""


def command(kind, folder):
    """The words of a command that may be made again, and whose result is in `folder / "out"`."""
    ours, out = [sys.executable, "-m", "keras_distill"], folder / "out"
    return {
        "fit": [sys.executable, str(TESTS / "resumed.py"), str(out), "arrays"],
        "train": [*ours, "train", f"--experiment={folder / 'tiny.py'}", f"--out={out}", "--resume"],
        "tune": [*ours, "tune", f"--experiment={folder / 'tiny.py'}", f"--out={out}", "--resume",
                 "--sweep", "alpha=0.2,0.9", "--repeats=1", "--leaders=1", "--halvings=1"],
        "cache": [*ours, "cache", "write", str(out), f"--experiment={folder / 'tiny.py'}",
                  f"--teacher={folder / 'teacher.keras'}", "--split=test"],  # in one order
        "export": [*ours, "export", f"--model={folder / 'teacher.keras'}", f"--out={out}",
                   "--name=m", "--version=1"],
    }[kind]  # fmt: skip


def prepare(folder):
    folder.mkdir()
    (folder / "tiny.py").write_text(EXPERIMENT)
    code = ("import keras, sys; keras.utils.set_random_seed(0); "
            "keras.Sequential([keras.Input((4,)),"
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
    if kind == "fit":
        return json.loads(said.splitlines()[-1])[0]
    out, found = folder / "out", {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.suffix == ".keras":  # its metadata hold a date
            found[name] = digest(zipfile.ZipFile(path).read("model.weights.h5"))
        elif path.suffix in (".tfrecord", ".index"):
            found[name] = digest(path.read_bytes())
        elif path.name == "ranking.json":
            rows = json.loads(path.read_text())["rows"]
            found[name] = [row["accuracies"] for row in rows]
        elif "unfinished" in name or path.name.startswith(".tmp"):
            found[name] = "half written"
        elif path.is_file() and not path.name.startswith("."):
            found[name] = "there"
    return found


def digest(content):
    return hashlib.sha256(content).hexdigest()


def killed(kind, folder, kills, seconds, rng):
    """What a command ends with that is killed so often; how often it had ended before."""
    ended, words = 0, command(kind, folder)
    for _ in range(kills):
        code, said, errors = run(words, rng.uniform(0, seconds))
        ended += code == 0
        refused = kind == "export" and "exists" in errors  # it had ended
        if code not in (0, -9) and not refused:
            raise RuntimeError(f"{kind} failed after a kill: {errors[-2000:]}")
    code, said, errors = run(words)
    if code and not (kind == "export" and (folder / "out/m/1").exists()):
        raise RuntimeError(f"{kind} failed at last: {errors[-2000:]}")
    return result(kind, folder, said), ended


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", default=["fit", "train", "tune", "cache", "export"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng, bad = random.Random(given.seed), []
    with tempfile.TemporaryDirectory() as place:
        for kind in given.kinds:
            folder = prepare(pathlib.Path(place) / f"{kind}-whole")
            started = time.monotonic()
            code, said, errors = run(command(kind, folder))
            seconds = time.monotonic() - started
            if code:
                raise RuntimeError(f"{kind} failed: {errors[-2000:]}")
            whole = result(kind, folder, said)
            folder = prepare(pathlib.Path(place) / f"{kind}-killed")
            found, ended = killed(kind, folder, given.kills, seconds, rng)
            differs = differences(whole, found)
            print(f"{kind}: {given.kills} kills within {np.round(seconds, 1)} s each, of which "
                  f"{ended} came too late: {differs or 'the same'}", flush=True)  # fmt: skip
            bad += [kind] if differs else []
    sys.exit(bool(bad))


def differences(whole, found):
    if isinstance(whole, str):
        return [] if whole == found else ["other weights"]
    return [name for name in {*whole, *found} if whole.get(name) != found.get(name)]


if __name__ == "__main__":
    main()
