"""
# The type of a file: a black-box teacher behind ONNX Runtime

Magika (https://github.com/google/magika) tells from a file's bytes which of 214 types it has. Its
model is an ONNX file, which Keras cannot run, and whose layers nobody can tap. But it gives
probabilities, and these can be distilled. A student of a twentieth of its parameters learns from
its decisions alone, and from its probabilities.

    pip install magika
    python examples/file_types.py

No labels are used. The files are those of this Python installation, so that the numbers differ from
machine to machine; `--folder=DIR` takes others. `--tiny` tries it all out in under a minute: its
numbers mean nothing.
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

from keras_distill import CachedTeacher, Distiller, Supervision, Term, losses, report
from keras_distill.experiments import Arm, Runner

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
PADDING = 256  # stands where a file has no more bytes

"""
## The teacher

ONNX Runtime runs the model on a few bytes from the beginning and the end of a file. Anything that
answers so would do: a service, or a program in another language.
"""


class Magika:
    """The model that the package `magika` brings.

    Attributes:
        begin: how many bytes of a file's beginning it reads.
        end: how many bytes of its end.
        types: the names of the types.
        size: of its file, in bytes.
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
        """The model's answers, (files, types), for rows of bytes, (files, begin + end)."""
        found = []
        for start in range(0, len(rows), 256):
            batch = rows[start : start + 256].astype("int32")
            found += self.session.run(["target_label"], {"bytes": batch})
        return np.concatenate(found)


def row(content, begin, end, block=4096):
    """The bytes of one file that a model reads: blanks at its edges are left out."""
    first = np.frombuffer(content[:block].lstrip()[:begin], "uint8")
    last = np.frombuffer(content[-block:].rstrip()[-end:], "uint8")
    found = np.full(begin + end, PADDING, "int16")
    found[: len(first)] = first
    found[begin + end - len(last) :] = last
    return found


"""
## The files

At most so many files of each ending, since an installation has thousands of Python files and few of
most other types. A fifth of the folders, chosen by their names, is for the test: files of one
folder are like each other.
"""


def files(folders, each):
    """The sorted paths of at most `each` files of each ending, without links and empty files."""
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
    """The first and the last block of a file, or all of it if it is shorter than both."""
    with path.open("rb") as file:
        first = file.read(2 * block)
        if len(first) < 2 * block:
            return first
        file.seek(-block, 2)
        return first[:block] + file.read()


def for_test(paths):
    """For each file whether it is for the test: a fifth of the folders, and at least one."""
    folders = sorted({path.parent for path in paths}, key=lambda path: zlib.crc32(bytes(path)))
    held = {*folders[::5]}
    return np.array([path.parent in held for path in paths])


"""
## The student

It reads fewer bytes than the teacher: an embedding of each byte, convolutions that take eight bytes
in strides of four, and what is most active anywhere.
"""


def network(count, begin, end, types, width=32):
    """A student of rows of `begin + end` bytes, of which it reads `count` on each side."""
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
## The arms

The teacher answers once for each file. Its decisions are labels: one student learns from them by
Keras alone. Its probabilities are targets: the logarithm of a probability is a logit, whose softmax
gives the probability back. Both begin with the same weights and see the same order of the files.
"""

ARMS = ("decisions", "probabilities", "decisions and probabilities")


def student(kind, given, sizes, data, seed, model_of):
    """One student, as an arm is trained."""
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

How often a student names the type that the teacher names, in percent; the divergence from its
probabilities in nats; milliseconds for one file and for each of 256; megabytes of the file.
"""


def milliseconds(call, rows, times=20):
    """The median time of a call for one row."""
    call(rows)
    found = []
    for _ in range(times):
        started = time.perf_counter()
        call(rows)
        found.append(time.perf_counter() - started)
    return 1e3 * float(np.median(found)) / len(rows)


def measured(probabilities, rows, expected, size):
    """The row of the table for a function from rows to probabilities."""
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
    """`{name: Arm}` over the files of some folders."""
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
    parser = argparse.ArgumentParser(description="The type of a file, learned from magika.")
    parser.add_argument("--folder", help="whose files are read; by default this Python's")
    parser.add_argument("--out", default="runs/file_types", type=pathlib.Path)
    parser.add_argument("--tiny", action="store_true", help="few files, one epoch")
    for key, value in {"files": 400, "bytes": 256, "seeds": 2, "epochs": 15, "batch_size": 64,
                       "temperature": 1.0}.items():  # fmt: skip
        parser.add_argument(f"--{key}", default=value, type=type(value))
    given = parser.parse_args(given)
    if given.tiny:
        given.files, given.seeds, given.epochs = 8, 1, 1
    return given


def main(given=None):
    given = arguments(given)
    if importlib.util.find_spec("magika") is None:
        raise SystemExit("This example needs magika and ONNX Runtime: pip install magika")
    python = sysconfig.get_paths()
    folders = [given.folder] if given.folder else [python["stdlib"], python["purelib"]]
    compare(given, Magika(), folders)


if __name__ == "__main__":
    main()
