"""
# A small network from gradient-boosted trees

Trees are hard to beat on tables. But there are many of them, they have no gradients, and a phone or
a server that runs neural networks cannot run them. A network can learn from their answers instead.
The trees are a black box that returns probabilities. The black box can also answer for rows that
nobody has labelled, and most tables have far more of those.

This example trains scikit-learn's gradient-boosted trees on 4,000 labelled rows. A network with two
small hidden layers then learns from the labels of these rows, from the labels and the trees'
answers on these rows, or from the trees' answers on these rows and on 40,000 rows without labels.

    python examples/gradient_boosted_teacher.py

It took 50 seconds of CPU time. The table shows mean and deviation over three seeds, each with its
own data:

| | accuracy | log loss |
|---|---|---|
| trees | 86.35 ± 0.21 | 0.384 ± 0.002 |
| network of labels | 74.15 ± 0.96 | 0.565 ± 0.014 |
| network of labels and answers | 76.15 ± 1.40 | 0.516 ± 0.019 |
| network of answers, more rows | 80.64 ± 0.85 | 0.458 ± 0.009 |

Most of the gain came from the rows without labels. No setting was tuned, and the network of 1,922
parameters is still far from the trees. One label in twelve is wrong, so no model can be right in
more than 91.67% of the rows.

A seed draws the table. `--csv=FILE --label=COLUMN` reads a table of yours. Every other column must
hold numbers. An empty cell is a missing value, and a row with an empty label is a row without a
label. `--tiny` runs everything in under a minute, with numbers that mean nothing.
"""

import argparse
import csv
import functools
import pathlib
import time

import keras
import numpy as np
from keras import layers
from settings import add_settings
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss

from keras_distill import CachedTeacher, Distiller, Supervision, Term, losses
from keras_distill.experiments import Arm, Runner

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

"""
## A table

The table has twelve columns with different scales. Three of them have no meaning, and a tenth of
the cells of one column are missing. The class of a row depends on thresholds and on pairs of
columns, as in rules that people write. One row in twelve has the wrong label.
"""


def table(labelled, unlabelled, test, seed):
    """Draws `{split: (rows, labels)}` from a seed. The labels of "unlabelled" are `None`."""
    draw = np.random.default_rng(seed)
    count = labelled + unlabelled + test
    x = draw.normal(size=(count, 12))
    x[:, 1], x[:, 2] = np.exp(x[:, 1]), 1000 * np.abs(x[:, 2])
    x[:, 3], x[:, 4] = draw.integers(0, 5, count), draw.integers(0, 2, count)
    points = (
        2.0 * (x[:, 1] > 1.2) * (x[:, 0] < 0.5)
        - 1.5 * (x[:, 2] > 700) * (x[:, 4] == 1)
        + 1.5 * np.isin(x[:, 3], (1, 4)) * (x[:, 5] > -0.3)
        + 1.0 * (np.abs(x[:, 6]) < 0.6)
        - 1.0 * (x[:, 7] + x[:, 8] > 0.8)
    )
    wrong = draw.random(count) < 1 / 12
    x[draw.random(count) < 0.1, 5] = np.nan
    y = ((points > 0.75) ^ wrong).astype("int64")
    x, cut = x.astype("float32"), np.cumsum([labelled, unlabelled])
    (first, second, third), (known, _, held) = np.split(x, cut), np.split(y, cut)
    return {"labelled": (first, known), "unlabelled": (second, None), "test": (third, held)}


def from_csv(path, label, seed):
    """Reads the same from a file. A fifth of the labelled rows is for the test."""
    with open(path, encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    if not found or label not in found[0]:
        names = list(found[0]) if found else []
        raise ValueError(f"{path} must have rows and a column {label!r}. Received: {names}")
    classes = sorted({row[label] for row in found} - {""})
    x = np.array([[float(value or "nan") for name, value in row.items() if name != label]
                  for row in found], "float32")  # fmt: skip
    y = np.array([classes.index(row[label]) if row[label] else -1 for row in found])
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = x[order], y[order]
    known, cut = y >= 0, int((y >= 0).sum()) // 5
    rows, labels = x[known], y[known]
    return {"labelled": (rows[cut:], labels[cut:]), "unlabelled": (x[~known], None),
            "test": (rows[:cut], labels[:cut])}  # fmt: skip


"""
## The teacher

The trees need no scaling and accept missing cells. The logarithm of a probability is a logit,
because its softmax gives the probability back.
"""


def trees(rows, labels, seed):
    """Trains trees until the loss on a tenth of the rows stops improving."""
    return HistGradientBoostingClassifier(
        max_iter=400, learning_rate=0.06, early_stopping=True, random_state=seed
    ).fit(rows, labels)


def answers(teacher, rows):
    """Returns the trees' logits, (rows, classes)."""
    return np.log(teacher.predict_proba(rows).clip(1e-6)).astype("float32")


"""
## The student

The student replaces a missing cell by the mean of its column. An additional column says which cells
were missing. The model scales the columns itself, so that it takes the same rows as the trees.
"""


@keras.saving.register_keras_serializable(package="gradient_boosted_teacher")
class Missing(layers.Layer):
    """Replaces missing cells by zeros and appends columns that say which cells were missing."""

    def call(self, rows):
        missing = keras.ops.isnan(rows)
        filled = keras.ops.where(missing, keras.ops.zeros_like(rows), rows)
        return keras.ops.concatenate([filled, keras.ops.cast(missing, rows.dtype)], axis=-1)


def network(rows, classes, width=32):
    """Returns two hidden layers on the rows, which are scaled by the statistics of `rows`."""
    mean, variance = np.nanmean(rows, 0), np.nanvar(rows, 0)
    x = inputs = keras.Input(rows.shape[1:])
    x = Missing()(layers.Normalization(mean=mean, variance=variance)(x))
    for _ in range(2):
        x = layers.Dense(width, "relu")(x)
    return keras.Model(inputs, layers.Dense(classes)(x), name="student")


"""
## The comparison

All students start from the same weights and make the same number of steps, however many rows they
see. The trees answer once for each row, before the training. The batches carry these answers beside
the labels, so no step calls the trees. If the rows have no labels, the whole loss comes from the
teacher.
"""

ARMS = ("labels", "labels and answers", "answers, more rows")


def student(way, given, splits, teacher_of, seed, model_of):
    """Trains one student."""
    print(f"\nseed {seed}, {way}")
    (rows, labels), (more, _) = splits(seed)["labelled"], splits(seed)["unlabelled"]
    keras.utils.set_random_seed(seed)
    net = network(rows, int(labels.max()) + 1)
    steps = given.epochs * -(-len(rows) // given.batch_size)
    scheme, y, alpha = {}, labels, given.alpha
    if way != "labels":
        if way == "answers, more rows":
            rows, labels, alpha = np.concatenate([rows, more]), None, 1.0
        y = Supervision(labels, {"output": answers(teacher_of(seed), rows)})
        terms = [Term(losses.KLDivergence(temperature=given.temperature))]
        scheme = {"teacher": CachedTeacher(), "terms": terms, "alpha": alpha}
    distiller = Distiller(net, **scheme)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    distiller.compile(keras.optimizers.Adam(rate), LOSS if labels is not None else None)
    epochs = max(1, round(steps / -(-len(rows) // given.batch_size)))
    logs = distiller.fit(rows, y, batch_size=given.batch_size, epochs=epochs, verbose=0)
    return net, {"loss": [float(value) for value in logs.history["loss"]]}


"""
## The result

The table shows the accuracy and the log loss on the test rows, the latter in nats. It also shows
the microseconds for one row in a batch of 1,000. They depend on the machine.
"""


def measured(predict, rows, labels):
    """Returns the row of the table for a function from rows to probabilities."""
    batch = rows[:1000]
    predict(batch)
    started = time.perf_counter()
    predict(batch)
    seconds = time.perf_counter() - started
    found = predict(rows)
    return {
        "accuracy": 100 * float(np.mean(found.argmax(-1) == labels)),
        "log loss": float(log_loss(labels, found, labels=range(found.shape[-1]))),
        "µs a row": 1e6 * seconds / len(batch),
    }


def arms(given):
    """Returns `{name: Arm}`."""

    @functools.cache
    def splits(seed):
        if given.csv:
            return from_csv(given.csv, given.label, seed)
        return table(given.labelled, given.unlabelled, given.test, seed)

    @functools.cache
    def teacher_of(seed):
        return trees(*splits(seed)["labelled"], seed)

    def of_trees(seed, model, model_of):
        return measured(teacher_of(seed).predict_proba, *splits(seed)["test"])

    def of_student(seed, model, model_of):
        call = keras.ops.softmax

        def predict(rows):
            return keras.ops.convert_to_numpy(call(model.predict_on_batch(rows)))

        found = measured(predict, *splits(seed)["test"])
        return {**found, "parameters": model.count_params()}

    students = {
        way: Arm(functools.partial(student, way, given, splits, teacher_of), of_student)
        for way in ARMS
    }
    return {"trees": Arm(None, of_trees), **students}


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Distills trees into a small network.")
    parser.add_argument("--csv", help="read this table of numbers with a header")
    parser.add_argument("--label", default="label", help="the column of the classes")
    parser.add_argument("--out", default="runs/gradient_boosted_teacher", type=pathlib.Path,
                        help="the folder of the results")  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="few rows, one seed, one epoch")
    add_settings(parser, labelled=4000, unlabelled=40000, test=10000, seeds=3, epochs=60,
                 batch_size=128, alpha=0.7, temperature=1.0)  # fmt: skip
    given = parser.parse_args(arguments)
    if given.tiny:
        given.labelled, given.unlabelled, given.test = 200, 400, 200
        given.seeds, given.epochs = 1, 1
    settings = {key: value for key, value in vars(given).items() if key not in ("out", "seeds")}
    Runner(arms(given), seeds=given.seeds, folder=given.out, settings=settings).run(
        resume=True, digits=3
    )


if __name__ == "__main__":
    main()
