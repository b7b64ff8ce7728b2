"""Compares ways to cut a teacher's width: the first units, or the most important ones on data.

A teacher is trained once. `models.shrink(width=...)` then keeps a share of its channels, hidden
units, heads and `hidden_dim`: the first ones ("slices"), those with the largest mean activation, or
those with the largest sum of `|weight * gradient|`, measured on 16 training batches. "From scratch"
has the same shape and none of the teacher's weights. Each is measured on the test split directly
after the cut, and after a short distillation (`hinton` at temperature 2, alpha 0.5) over seeds.

    python benchmarks/width.py --data=DIR --out=runs/width [--seeds=3] [--tasks NAME ...]

`DIR` holds `sentiment.tsv`, as `pairs.py` describes it; digits come with scikit-learn. Trained
models are saved, so the command continues an interrupted run. It takes about 15 minutes of one CPU.
"""

import argparse
import dataclasses
import functools
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers
from measuring import machine
from pairs import LENGTH, SMALL, WORDS, digits, reviews

from keras_distill import CachedTeacher, Distiller, Supervision, models, recipes
from keras_distill._files import read_json, write_json

ARMS = ("from scratch", "slices", "activation", "taylor")
BATCH, BATCHES = 64, 16
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@dataclasses.dataclass(frozen=True)
class Task:
    """A task: `data(folder)` returns `{split: (x, y)}`, and `teacher` makes a model of logits."""

    data: callable
    teacher: callable
    teacher_epochs: int
    epochs: int
    rate: float = 1e-3


def dense():
    widths = [layers.Dense(128, "relu") for _ in range(2)]
    return keras.Sequential([keras.Input(SMALL), layers.Flatten(), *widths, layers.Dense(10)])


def residual():
    """Returns a stem and three residual blocks with batch normalization; the skip has one width."""
    inputs = keras.Input(SMALL)
    x = layers.Conv2D(32, 3, padding="same")(inputs)
    for _ in range(3):
        y = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        y = layers.Conv2D(48, 3, padding="same")(y)
        y = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(y))
        x = x + layers.Conv2D(32, 3, padding="same")(y)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layers.MaxPooling2D()(x)))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def bert():
    import keras_hub

    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=WORDS, num_layers=2, num_heads=4, hidden_dim=64, intermediate_dim=256,
        dropout=0.2, max_sequence_length=LENGTH,
    )  # fmt: skip
    return keras_hub.models.BertTextClassifier(backbone, 2)


def tokens(folder):
    """Returns word numbers in the form that BERT takes."""
    return {split: ({"token_ids": x, "padding_mask": (x > 0).astype("int32"),
                     "segment_ids": np.zeros_like(x)}, y)
            for split, (x, y) in reviews(folder).items()}  # fmt: skip


TASKS = {
    "digits, dense": Task(digits, dense, 40, 10),
    "digits, residual": Task(digits, residual, 20, 5),
    "reviews, BERT": Task(tokens, bert, 4, 2, 5e-4),
}


class Cuts:
    """The students of one task's teacher; measured results are kept on disk."""

    def __init__(self, name, folder, out):
        self.task = TASKS[name]
        self.folder = pathlib.Path(out) / name.replace(", ", "-")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = self.task.data(folder)
        path = self.folder / "teacher.keras"
        if not path.exists():
            keras.utils.set_random_seed(0)
            self._fit(model := self.task.teacher(), self.data["train"][1], self.task.teacher_epochs)
            model.save(path)
        self.teacher = keras.saving.load_model(path, compile=False)

    @functools.cached_property
    def answers(self):
        return self.teacher.predict(self.data["train"][0], batch_size=512, verbose=0)

    def _fit(self, model, y, epochs):
        x = self.data["train"][0]
        steps = -(-len(self.data["train"][1]) // BATCH) * epochs
        decay = keras.optimizers.schedules.CosineDecay(self.task.rate, steps)
        model.compile(keras.optimizers.Adam(decay), LOSS)
        model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)

    def accuracy(self, model):
        x, y = self.data["test"]
        outputs = model.predict(x, batch_size=512, verbose=0)
        return 100 * float(np.mean(outputs.argmax(-1) == y))

    def student(self, arm, share):
        if arm in ("from scratch", "slices"):
            cut = models.shrink(self.teacher, width=share)
            return remade(cut) if arm == "from scratch" else cut
        asked = {"loss": LOSS} if arm == "taylor" else {}
        return models.shrink(self.teacher, width=share, importance=self.batches(), measure=arm,
                             **asked)  # fmt: skip

    def batches(self):
        x, y = self.data["train"]
        for start in range(0, min(BATCH * BATCHES, len(y)), BATCH):
            rows = slice(start, start + BATCH)
            yield keras.tree.map_structure(lambda part, rows=rows: part[rows], (x, y))

    def measured(self, arm, share, seed):
        """Returns the test accuracy in %, directly after the cut and after the distillation."""
        path = self.folder / f"{arm.replace(' ', '_')}-{share}-{seed}.json"
        if read_json(path) is None:
            keras.backend.clear_session()
            keras.utils.set_random_seed(seed)
            student = self.student(arm, share)
            found = {"cut": self.accuracy(student), "parameters": student.count_params()}
            model = Distiller(student, teacher=CachedTeacher(), alpha=0.5,
                              terms=recipes.hinton(temperature=2.0))  # fmt: skip
            supervision = Supervision(self.data["train"][1], self.answers)
            self._fit(model, supervision, self.task.epochs)
            write_json(path, {**found, "distilled": self.accuracy(student)})
        return read_json(path)


def remade(model):
    """Returns a model of the same sizes with weights of its own."""
    config = model.get_config()
    backbone = getattr(model, "backbone", None)
    if backbone is not None:
        config["backbone"] = type(backbone).from_config(backbone.get_config())
    return type(model).from_config(config)


def rows(name, given):
    cuts = Cuts(name, given.data, given.out)
    teacher = cuts.accuracy(cuts.teacher)
    for share in given.shares:
        for arm in ARMS:
            found = [cuts.measured(arm, share, seed) for seed in range(1, 1 + given.seeds)]
            yield {"task": name, "teacher": teacher, "share": share, "arm": arm,
                   "parameters": found[0]["parameters"], "of": cuts.teacher.count_params(),
                   "cut": [each["cut"] for each in found],
                   "distilled": [each["distilled"] for each in found]}  # fmt: skip


def line(row):
    after = np.asarray(row["distilled"])
    spread = f" ± {after.std(ddof=1):.1f}" if len(after) > 1 else ""
    return (
        f"| {row['task']} ({row['teacher']:.1f}) | {row['share']:g} | {row['parameters']:,} of "
        f"{row['of']:,} | {row['arm']} | {np.mean(row['cut']):.1f} | {after.mean():.1f}{spread} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, metavar="DIR", help="the folder of the data sets")
    parser.add_argument("--out", required=True, metavar="DIR",
                        help="where the run is written, and goes on")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds to run")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.25],
                        help="the shares of the width to keep")  # fmt: skip
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS),
                        help="the tasks to run (default: all)")  # fmt: skip
    given, found = parser.parse_args(), []
    print("| task (teacher %) | width | parameters | kept by | test %, cut | distilled |")
    print("|---|---|---|---|---|---|")
    for name in given.tasks:
        for row in rows(name, given):
            found.append(row)
            print(line(row), flush=True)
            told = {"machine": machine(), "rows": found}
            write_json(pathlib.Path(given.out) / "width.json", told)


if __name__ == "__main__":
    main()
