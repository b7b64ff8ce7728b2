"""
# The type of a file: a black-box teacher behind ONNX Runtime

Magika (https://github.com/google/magika) reads the bytes of a file and says which of 214 types the
file has. Its model is an ONNX file, so Keras cannot run it and no one can tap its layers. But the
model returns probabilities, and a student can learn from these. This example distills it into a
student of a twentieth of its parameters. The student learns from the decisions alone, from the
probabilities, or from both.

    pip install magika
    python examples/file_types.py --seeds=1

It took five minutes of CPU time. The table shows how often a student gives the teacher's answer, in
percent, and its divergence from the teacher, on the files of one installation:

| | agreement | divergence | MB |
|---|---|---|---|
| magika | 100.00 | 0.00 | 3.16 |
| decisions | 78.53 | 1.54 | 0.22 |
| probabilities | 79.14 | 0.74 | 0.22 |
| decisions and probabilities | 78.91 | 0.85 | 0.22 |

The probabilities halve the divergence. The students agree with the teacher equally often.

The example uses no labels. By default it reads the files of this Python installation, so the
numbers differ from machine to machine. `--folder=DIR` reads the files of another folder. `--tiny`
runs everything in under a minute, with numbers that mean nothing.
"""

import argparse
import functools
import importlib.util
import json
import pathlib
import sysconfig
import time
import zlib

import keras
import numpy as np
from keras import layers
from settings import add_settings

from keras_distill import CachedTeacher, Distiller, Supervision, Term, losses, report
from keras_distill.experiments import Arm, Runner

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
PADDING = 256  # fills the row of a short file

"""
## The teacher

ONNX Runtime runs the model on a few bytes from the beginning and the end of each file. Any other
black box that returns probabilities works as well, such as a service or a program in another
language.
"""


class Magika:
    """The model of the package `magika`.

    Attributes:
        begin: the number of bytes that it reads from the beginning of a file.
        end: the number of bytes that it reads from the end.
        types: the names of the types.
        size: the size of the model's file in bytes.
    """

    def __init__(self):
        import onnxruntime

        package = importlib.util.find_spec("magika")
        folder = max(pathlib.Path(package.origin).parent.glob("models/standard_*"))
        config = json.loads((folder / "config.min.json").read_text())
        self.begin, self.end = config["beg_size"], config["end_size"]
        self.types = config["target_labels_space"]
        self.size = (folder / "model.onnx").stat().st_size
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
        )

    def probabilities(self, rows):
        """Returns the probabilities, (files, types), for rows of bytes, (files, begin + end)."""
        found = []
        for start in range(0, len(rows), 256):
            batch = rows[start : start + 256].astype("int32")
            found += self.session.run(["target_label"], {"bytes": batch})
        return np.concatenate(found)


def row(content, begin, end, block=4096):
    """Returns the bytes of one file that a model reads, without the blanks at its edges."""
    first = np.frombuffer(content[:block].lstrip()[:begin], "uint8")
    last = np.frombuffer(content[-block:].rstrip()[-end:], "uint8")
    found = np.full(begin + end, PADDING, "int16")
    found[: len(first)] = first
    found[begin + end - len(last) :] = last
    return found


"""
## The files

A Python installation has thousands of Python files and few files of most other types. The example
therefore takes at most a fixed number of files with the same ending. Files of one folder resemble
each other, so the test uses whole folders. They are a fifth of all folders, chosen by their names.
"""


def files(folders, each):
    """Returns the sorted paths of at most `each` files of each ending.

    Links and files of less than 16 bytes are left out.
    """
    found, counts = [], {}
    paths = {path for folder in folders for path in pathlib.Path(folder).rglob("*")}
    for path in sorted(paths, key=lambda path: (zlib.crc32(bytes(path)), path)):
        ending = path.suffix.lower()
        if counts.get(ending, 0) < each and path.is_file() and not path.is_symlink():
            if path.stat().st_size >= 16:
                counts[ending] = counts.get(ending, 0) + 1
                found.append(path)
    return sorted(found)


def read(path, block=4096):
    """Returns the first and the last block of a file, or the whole of a shorter file."""
    with path.open("rb") as file:
        first = file.read(2 * block)
        if len(first) < 2 * block:
            return first
        file.seek(-block, 2)
        return first[:block] + file.read()


def for_test(paths):
    """Returns for each file whether it belongs to the test, which has at least one folder."""
    folders = sorted({path.parent for path in paths}, key=lambda path: zlib.crc32(bytes(path)))
    held = {*folders[::5]}
    return np.array([path.parent in held for path in paths])


"""
## The student

The student reads fewer bytes than the teacher. It embeds each byte and applies convolutions with
strides. Then it takes the maximum and the mean of each channel over all positions.
"""


def network(count, begin, end, types, width=32):
    """Returns a student of rows of `begin + end` bytes that reads `count` bytes of each end."""
    inputs = keras.Input((begin + end,), dtype="int16")
    x = layers.Embedding(PADDING + 1, 16)(inputs)
    sides = []
    for part in (x[:, :count], x[:, -count:]):
        for size in (8, 4):
            part = layers.Conv1D(width, size, size // 2, "same", activation="relu")(part)
        sides += [layers.GlobalMaxPooling1D()(part), layers.GlobalAveragePooling1D()(part)]
    x = layers.Dense(64, "relu")(layers.Concatenate()(sides))
    return keras.Model(inputs, layers.Dense(types)(x), name="student")


"""
## The comparison

The teacher answers once for each file. One student uses its decisions as labels, which Keras alone
can do. Another student uses its probabilities as targets. The logarithm of a probability is a
logit, because its softmax gives the probability back. All students start from the same weights and
see the files in the same order.
"""

ARMS = ("decisions", "probabilities", "decisions and probabilities")


def student(kind, given, sizes, data, seed, model_of):
    """Trains one student."""
    print(f"\nseed {seed}, {kind}")
    rows, shares = data["train"]
    keras.utils.set_random_seed(seed)
    net = network(given.bytes, *sizes)
    labels, targets = shares.argmax(-1), {"output": np.log(shares.clip(1e-7))}
    alpha = {"decisions": 0.0, "probabilities": 1.0}.get(kind, 0.5)
    terms = [Term(losses.KLDivergence(temperature=given.temperature))]
    scheme = {"teacher": CachedTeacher(), "terms": terms, "alpha": alpha} if alpha else {}
    y = Supervision(labels, targets) if alpha else labels
    distiller = Distiller(net, **scheme)
    steps = given.epochs * -(-len(rows) // given.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    distiller.compile(keras.optimizers.Adam(rate), LOSS, metrics=["accuracy"])
    logs = distiller.fit(rows, y, batch_size=given.batch_size, epochs=given.epochs, verbose=2)
    return net, {"loss": [float(value) for value in logs.history["loss"]]}


"""
## The result

The table shows how often a student names the same type as the teacher, in percent, and its
divergence from the teacher's probabilities, in nats. It also shows the milliseconds for one file
alone and for one file in a batch of 256, and the size of the model's file in megabytes.
"""


def milliseconds(call, rows, times=20):
    """Returns the median time of a call for one row."""
    call(rows)
    found = []
    for _ in range(times):
        started = time.perf_counter()
        call(rows)
        found.append(time.perf_counter() - started)
    return 1e3 * float(np.median(found)) / len(rows)


def measured(probabilities, rows, expected, size):
    """Returns the row of the table for a function from rows to probabilities."""
    found, times = probabilities(rows), 1 if len(rows) < 64 else 20
    apart = expected * (np.log(expected.clip(1e-7)) - np.log(found.clip(1e-7)))
    return {
        "agreement": 100 * float(np.mean(found.argmax(-1) == expected.argmax(-1))),
        "divergence": float(np.mean(apart.sum(-1))),
        "ms a file": milliseconds(probabilities, rows[:1], times),
        "ms a file of 256": milliseconds(probabilities, rows[:256], times),
        "MB": size / 1e6,
    }


def arms(given, teacher, folders):
    """Returns `{name: Arm}` for the files of some folders."""
    paths = files(folders, given.files)
    rows = np.stack([row(read(path), teacher.begin, teacher.end) for path in paths])
    held = for_test(paths)
    shares = teacher.probabilities(rows)
    data = {"train": (rows[~held], shares[~held]), "test": (rows[held], shares[held])}
    seen = len(np.unique(shares.argmax(-1)))
    print(f"{len(paths):,} files of {seen} types, {held.sum():,} of them for the test")

    def of_teacher(seed, model, model_of):
        return measured(teacher.probabilities, *data["test"], teacher.size)

    def of_student(seed, model, model_of):
        def probabilities(rows):
            logits = model.predict_on_batch(rows)
            return keras.ops.convert_to_numpy(keras.ops.softmax(logits))

        found = measured(probabilities, *data["test"], report.size_on_disk(model))
        return {**found, "parameters": model.count_params()}

    sizes = teacher.begin, teacher.end, len(teacher.types)
    students = {
        kind: Arm(functools.partial(student, kind, given, sizes, data), of_student)
        for kind in ARMS
    }
    return {"magika": Arm(None, of_teacher, once=True), **students}


def compare(given, teacher, folders):
    """Trains and measures all arms."""
    settings = {key: value for key, value in vars(given).items() if key not in ("out", "seeds")}
    runner = Runner(arms(given, teacher, folders), seeds=given.seeds, folder=given.out,
                    settings=settings)  # fmt: skip
    return runner.run(resume=True)


def arguments(given=None):
    parser = argparse.ArgumentParser(description="Distills magika into a small network.")
    parser.add_argument("--folder", help="read the files of this folder (default: this Python)")
    parser.add_argument("--out", default="runs/file_types", type=pathlib.Path,
                        help="the folder of the results")  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="few files, one seed, one epoch")
    add_settings(parser, files=400, bytes=256, seeds=2, epochs=15, batch_size=64, temperature=1.0)
    given = parser.parse_args(given)
    if given.tiny:
        given.files, given.seeds, given.epochs = 8, 1, 1
    return given


def main(given=None):
    given = arguments(given)
    if importlib.util.find_spec("magika") is None:
        raise SystemExit(
            "This example needs magika and ONNX Runtime. Install both with `pip install magika`."
        )
    python = sysconfig.get_paths()
    folders = [given.folder] if given.folder else [python["stdlib"], python["purelib"]]
    compare(given, Magika(), folders)


if __name__ == "__main__":
    main()
