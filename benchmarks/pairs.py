"""Pairs of teacher, student and data for images, text, tables and regression.

The rules of `recipes.default` were made on `FOR_RULES` (`default_recipe.py`), and are judged on
`HELD_OUT` (`never_hurts.py`). A folder holds the data that no dependency ships: Fashion-MNIST's idx
files in `fashion_mnist/`, `sentiment.tsv` (split, label, text), `synopsis.tsv` (split, section,
short, long), WordNet's `data.noun`, `data.verb`, `data.adj` and `data.adv` in `wordnet/`, and a
MiniLM encoder in the format of Hugging Face in `minilm/`.
"""

import csv
import dataclasses
import functools
import math
import pathlib
import sys
import types

import keras
import numpy as np
from keras import layers

sys.path.append(str(pathlib.Path(__file__).parents[1] / "examples"))

WORDS, LENGTH, BATCH = 4_000, 48, 64


@dataclasses.dataclass(frozen=True)
class Pair:
    """A task: `data(folder)` returns `{split: (x, y)}` as arrays.

    `teacher` makes a Keras model, or it is a function `(x, y, folder)` that trains a black box and
    returns it as a function of `x`. `student` makes a Keras model. `loss` is "classes" or "values".
    """

    data: callable
    teacher: callable
    student: callable
    epochs: int
    teacher_epochs: int = 30
    batch: int = BATCH
    rate: float = 5e-3
    loss: str = "classes"
    black_box: bool = False
    teacher_data: callable = None  # what the teacher is trained on; by default the student's
    teacher_reads: callable = None  # the same examples as the teacher reads them, if it differs
    teacher_file: str = None  # pairs with one name share a teacher


# Data


def _cut(x, y, valid, test, seed=0):
    """Returns three random splits, the same at each call."""
    order = np.random.default_rng(seed).permutation(len(x))
    ends = np.cumsum([test, valid])
    parts = dict(zip(("test", "valid", "train"), np.split(order, ends)))
    return {split: (x[rows], y[rows]) for split, rows in parts.items()}


def digits(folder):
    from images import digits as read

    return read()


def fashion(folder, count, valid=5_000):
    from images import from_idx

    splits = from_idx(pathlib.Path(folder) / "fashion_mnist", valid)
    return {**splits, "train": tuple(part[:count] for part in splits["train"])}


def classes_like_covertype(folder, count=6_000):
    from sklearn.datasets import make_classification

    x, y = make_classification(
        count + 4_000, 54, n_informative=14, n_redundant=6, n_classes=7, n_clusters_per_class=3,
        flip_y=0.05, class_sep=1.2, random_state=0,
    )  # fmt: skip
    return _cut(x.astype("float32"), y, 1_500, 2_500)


def blobs(folder):
    from sklearn.datasets import make_classification

    x, y = make_classification(6_000, 20, n_informative=12, n_redundant=2, n_classes=10,
                               class_sep=1.5, flip_y=0.02, random_state=1)  # fmt: skip
    return _cut(x.astype("float32"), y, 1_500, 2_500)


def cancer(folder):
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return _cut(((x - x.mean(0)) / x.std(0)).astype("float32"), y, 120, 200)


def _values(x, y, valid, test):
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    return _cut(x.astype("float32"), y[:, None].astype("float32"), valid, test)


def diabetes(folder):
    from sklearn.datasets import load_diabetes

    return _values(*load_diabetes(return_X_y=True), 90, 140)


def friedman(folder):
    from sklearn.datasets import make_friedman1

    return _values(*make_friedman1(4_000, noise=1.0, random_state=0), 1_000, 1_500)


def _numbered(texts):
    """Returns word numbers by the training texts, `{split: (count, LENGTH)}`."""
    table = layers.TextVectorization(WORDS, output_sequence_length=LENGTH)
    table.adapt(texts["train"])
    return {split: table(np.asarray(each)).numpy() for split, each in texts.items()}


def _of_texts(rows, limits, numbered=True):
    """Returns splits of `[(split, text, label)]`, with at most so many rows each."""
    names = {label: index for index, label in enumerate(sorted({row[2] for row in rows}))}
    kept = {split: [row for row in rows if row[0] == split][:n] for split, n in limits.items()}
    x = {split: [row[1] for row in each] for split, each in kept.items()}
    x = _numbered(x) if numbered else x
    return {s: (x[s], np.asarray([names[row[2]] for row in kept[s]])) for s in kept}


def _tsv(path):
    with open(path, encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)


LIMITS = {"train": 6_000, "valid": 2_000, "test": 3_000}


def reviews(folder, numbered=True):
    rows = _tsv(pathlib.Path(folder) / "sentiment.tsv")
    return _of_texts([(r["split"], r["text"], r["label"]) for r in rows], LIMITS, numbered)


def sections(folder, count=12):
    rows = [(r["split"], r["long"], r["section"]) for r in
            _tsv(pathlib.Path(folder) / "synopsis.tsv")]  # fmt: skip
    named, sizes = np.unique([row[2] for row in rows], return_counts=True)
    often = {*named[np.argsort(-sizes, kind="stable")][:count]}
    return _of_texts([row for row in rows if row[2] in often], LIMITS)


def _wordnet(folder, parts, label):
    rows = []
    for part in parts:
        path = pathlib.Path(folder) / "wordnet" / f"data.{part}"
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("  "):
                fields, _, gloss = line.partition(" | ")
                rows.append((gloss, label(part, fields.split(" "))))
    order = np.random.default_rng(0).permutation(len(rows))
    ends = dict(zip(("valid", "test", "train"), np.split(order, [2_000, 5_000])))
    return [(split, *rows[i]) for split, each in ends.items() for i in each]


def parts_of_speech(folder):
    rows = _wordnet(folder, ("noun", "verb", "adj", "adv"), lambda part, fields: part)
    return _of_texts(rows, LIMITS)


def lexical_fields(folder, part="noun", count=10_000):
    """Returns the lexicographer's file of a gloss: 26 fields of nouns, 15 of verbs."""
    rows = _wordnet(folder, (part,), lambda part, fields: fields[1])
    return _of_texts(rows, {**LIMITS, "train": count})


# Networks, which all end in logits or values


def dense(shape, widths, outputs, dropout=0.0):
    hidden = [layers.Dense(width, "relu") for width in widths]
    drop = [layers.Dropout(dropout)] if dropout else []
    return keras.Sequential([keras.Input(shape), layers.Flatten(), *hidden, *drop,
                             layers.Dense(outputs)])  # fmt: skip


def convolutions(shape, widths, dropout=0.0, strides=1):
    """Returns two convolutions per width, or one if its strides halve the image."""
    x = inputs = keras.Input(shape)
    for width in widths:
        if strides == 1:
            x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        x = layers.Conv2D(width, 3, strides, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x) if strides == 1 else x
    x = layers.Flatten()(x) if strides > 1 else layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(inputs, layers.Dense(10)(x))


def residual(shape, width, blocks):
    inputs = keras.Input(shape)
    x = layers.Conv2D(width, 3, 2, padding="same")(inputs)
    for _ in range(blocks):
        y = layers.Activation("relu")(layers.BatchNormalization()(x))
        y = layers.Activation("relu")(layers.BatchNormalization()(
            layers.Conv2D(width, 3, padding="same")(y)))  # fmt: skip
        x = x + layers.Conv2D(width, 3, padding="same")(y)
    x = layers.Activation("relu")(layers.BatchNormalization()(layers.MaxPooling2D()(x)))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def bag_of_words(width, outputs, dropout=0.0):
    inputs = keras.Input((LENGTH,), dtype="int64")
    x = layers.Embedding(WORDS, width, mask_zero=True)(inputs)
    x = layers.Dropout(dropout)(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, layers.Dense(outputs)(x))


def word_windows(width, outputs):
    inputs = keras.Input((LENGTH,), dtype="int64")
    x = layers.Dropout(0.4)(layers.Embedding(WORDS, width)(inputs))
    x = layers.Concatenate()([layers.Conv1D(width, size, padding="same", activation="relu")(x)
                              for size in (1, 3, 5)])  # fmt: skip
    x = layers.Dropout(0.5)(layers.GlobalMaxPooling1D()(x))
    return keras.Model(inputs, layers.Dense(outputs)(x))


def of_the_example():
    from fashion_mnist import teacher

    return teacher()


# Teachers that are functions


def fine_tuned(x, y, folder):
    """Fine-tunes MiniLM on texts, as `examples/text_classification.py` does."""
    from text_classification import LOSS, classifier
    from training import warmed_up

    keras.utils.set_random_seed(0)
    given = types.SimpleNamespace(encoder=f"{folder}/minilm", tiny=False, dtype="float32",
                                  length=32)  # fmt: skip
    model, epochs = classifier(given, x, int(y.max()) + 1), 2
    rate = warmed_up(1e-4, epochs * math.ceil(len(y) / 32))
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.01), LOSS)
    model.fit(np.asarray(x), y, batch_size=32, epochs=epochs, verbose=0)
    return lambda texts: model.predict(np.asarray(texts), batch_size=64, verbose=0)


def boosted_classes(x, y, folder):
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(random_state=0).fit(x, y)
    return lambda inputs: np.log(np.maximum(model.predict_proba(inputs), 1e-7)).astype("float32")


def boosted_values(x, y, folder):
    from sklearn.ensemble import GradientBoostingRegressor

    model = GradientBoostingRegressor(
        subsample=0.7, learning_rate=0.05, max_depth=2, random_state=0
    ).fit(x, y.ravel())
    return lambda inputs: model.predict(inputs)[:, None].astype("float32")


part = functools.partial
SMALL, LARGE = (8, 8, 1), (28, 28, 1)


def of_fashion(count, student, epochs, batch=BATCH):
    """Returns the pair of a student with some images and a teacher that saw all images."""
    every = part(fashion, count=55_000)
    return Pair(part(fashion, count=count), of_the_example, student, epochs, 12, batch,
                teacher_data=every, teacher_file="fashion")  # fmt: skip


def of_short_teacher(pair):
    """Returns the same pair with a smaller teacher that is not trained to its end."""
    teacher = part(convolutions, LARGE, (16, 32, 64), 0.3)
    return dataclasses.replace(pair, teacher=teacher, teacher_epochs=6, teacher_file="short")


PLAIN = part(convolutions, LARGE, (8, 12, 16), 0.0, 2)

FOR_RULES = {
    "digits, dense": Pair(digits, part(convolutions, SMALL, (32, 64), 0.3),
                          part(dense, SMALL, (12,), 10), 60),
    "blobs": Pair(blobs, part(dense, (20,), (256, 256), 10, 0.4), part(dense, (20,), (16,), 10),
                  40),
    "fashion 4,000, dense": of_short_teacher(
        of_fashion(4_000, part(dense, LARGE, (24,), 10), 30)),
    "parts of speech": Pair(parts_of_speech, part(word_windows, 64, 4),
                            part(bag_of_words, 8, 4), 20, 8),
    "fields of verbs": Pair(part(lexical_fields, part="verb", count=8_000),
                            part(word_windows, 96, 15), part(bag_of_words, 8, 15), 20, 10),
    "friedman": Pair(friedman, boosted_values, part(dense, (10,), (12,), 1), 60, loss="values",
                     black_box=True),
}  # fmt: skip

HELD_OUT = {
    "digits": Pair(digits, part(convolutions, SMALL, (32, 64), 0.3),
                   part(convolutions, SMALL, (6, 10), 0.0, 2), 80),
    "fashion 2,000, plain": of_fashion(2_000, PLAIN, 40),
    "fashion 10,000, residual": of_fashion(10_000, part(residual, LARGE, 8, 2), 20),
    "fashion 55,000, plain": of_fashion(55_000, PLAIN, 20, 128),
    "reviews": Pair(reviews, fine_tuned, part(bag_of_words, 8, 2), 20, black_box=True,
                    teacher_reads=part(reviews, numbered=False)),
    "sections": Pair(sections, part(word_windows, 96, 12), part(bag_of_words, 8, 12), 20, 10),
    "lexical fields": Pair(lexical_fields, part(word_windows, 96, 26),
                           part(bag_of_words, 8, 26), 20, 10),
    "table, boosted teacher": Pair(classes_like_covertype, boosted_classes,
                                   part(dense, (54,), (16,), 7), 40, black_box=True),
    "cancer": Pair(cancer, boosted_classes, part(dense, (30,), (4,), 2), 60, batch=32,
                   black_box=True),
    "diabetes": Pair(diabetes, boosted_values, part(dense, (10,), (8,), 1), 60, batch=32,
                     loss="values", black_box=True),
}  # fmt: skip

NOT_AHEAD = {  # teachers that are no better than their students
    "fashion 55,000, short teacher": of_short_teacher(HELD_OUT["fashion 55,000, plain"]),
    "reviews, teacher of words": Pair(reviews, part(word_windows, 64, 2),
                                      part(bag_of_words, 8, 2), 20, 8),
}  # fmt: skip
