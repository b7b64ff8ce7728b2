"""
# A sentiment classifier with half the layers, and one for a phone

A pretrained MiniLM encoder (6 layers, 22.7 million parameters) is fine-tuned on sentences of movie
reviews, and taught to three students:

- 3 layers, every second of the teacher's;
- 2 layers and the 8,000 commonest of its 30,522 tokens;
- a convolution over words, with half a million parameters.

Each is trained for each seed, for the same number of steps: alone, which for the first two means
cut from the *pretrained* encoder and fine-tuned on the labels, and distilled, which means cut from
the *fine-tuned* teacher and trained on labels and on what the teacher knows. Between them stands
what the cut alone does: cut from the fine-tuned teacher, trained on the labels.

    python examples/text_classification.py --data=DIR --out=runs/text_classification

`DIR` holds `sentiment.tsv` (columns split, label, text) and `minilm/`, the encoder in the format
of Hugging Face. Other texts, other encoders:

    python examples/text_classification.py --tfds=imdb_reviews --length=256 \
        --encoder=bert_small_en_uncased
    python examples/text_classification.py --tfds=glue/sst2 --text=sentence --encoder=DIR/minilm
    python examples/text_classification.py --tsv=FILE --text=long --label=section --classes=25 \
        --limit=10000 --length=64 --seeds=1 --encoder=DIR/minilm

`--tiny --limit=64` tries it out, with a random encoder: its numbers mean nothing. A killed
run goes on from the end of the last epoch when the same command is given again.
`docs/results.md` says what was run.
"""

import argparse
import functools
import json
import pathlib
import re

import data
import encoders
import keras
import keras_hub
import numpy as np
import tensorflow as tf
from keras import layers
from training import count_tokens, loaded, open_folder, speed, train, warmed_up

from keras_distill import CachedTeacher, Distiller, ModelTeacher, Term, losses, models, recipes
from keras_distill.data import read_targets, write_targets

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
BATCH = 32

"""
## The teacher

KerasHub's classifier around the pretrained encoder: it takes strings, and its preprocessor makes
the tokens. Nothing of this package is needed so far.
"""


def classifier(given, texts, classes):
    """The pretrained encoder with a new head."""
    backbone, preprocess = encoders.encoder(given, texts)
    return keras_hub.models.BertTextClassifier(backbone, classes, preprocess, name="teacher")


"""
## The students

`models.shrink` cuts a task out of a task: blocks are kept with their weights, and with fewer
tokens comes a tokenizer that spells what it has lost by shorter pieces. The third student is a
plain Keras model from strings to logits, with one convolution over the vectors of words.
"""


def three_layers(task, texts):
    return models.shrink(task, every=2, name="student")


def two_layers(task, texts, tokens=8000):
    vocabulary = models.common_tokens(task, texts, tokens)
    return models.shrink(task, depth=2, vocabulary=vocabulary, name="student")


def convolution(task, texts, words=8000, width=64):
    split = layers.TextVectorization(
        words, output_sequence_length=task.preprocessor.sequence_length
    )
    split.adapt(texts)
    x = inputs = keras.Input((), dtype="string")
    x = layers.Embedding(words, width)(split(x))
    x = layers.Dropout(0.3)(x)
    x = layers.Conv1D(128, 3, padding="same", activation="relu")(x)
    x = layers.GlobalMaxPooling1D()(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(inputs, layers.Dense(task.num_classes)(x), name="student")


"""
## What is distilled

Where the student's tokens are the teacher's, three kinds of knowledge: the outputs, softened; the
hidden states of the blocks, by their direction; and, as MiniLM does, the relations between the
queries, keys and values of the last block. The student with another tokenizer, whose third token
is not the teacher's third, gets what is one value an example: the outputs, the pooled vector, and
the likeness of the examples in a batch.
"""

POOLED = "backbone/pooled_dense"
MASK = "input:padding_mask"


def token_terms(student, teacher):
    pairs = recipes.match_layers(student, teacher, verbose=False)
    hidden = [
        Term(losses.Cosine(), student=ours, teacher=theirs, mask=MASK, weight=1 / len(pairs),
             name=f"hidden_{index}")
        for index, (ours, theirs) in enumerate(pairs)
    ]  # fmt: skip
    return [*output_terms(student, teacher), *hidden, *recipes.minilm(student, teacher, mask=MASK)]


def example_terms(student, teacher):
    return [
        *output_terms(student, teacher),
        Term(losses.Cosine(), student=POOLED, teacher=POOLED, name="pooled"),
        Term(losses.SimilarityPreserving(), student=POOLED, teacher=POOLED, name="similarity"),
    ]


def output_terms(student, teacher):
    return [Term(losses.KLDivergence(temperature=2.0))]


STUDENTS = {  # how it is made, what it is taught, epochs, rate
    "3 layers": (three_layers, token_terms, 2, 1e-4),
    "2 layers, 8,000 tokens": (two_layers, example_terms, 2, 1e-4),
    "convolution": (convolution, output_terms, 8, 1e-3),
}


def arms(student):
    """How a student is trained; the convolution is not cut from anything."""
    return ("alone", "distilled") if student == "convolution" else ("alone", "cut", "distilled")


"""
## The run

The teacher runs over the training texts once; what it says is kept on disk and read in every epoch
of every seed. The cache is keyed by the strings, so that students with any tokenizer find their
targets in it. Each finished model is a file: the run takes up where it was.
"""


class Run:
    """The parts of one run, each made when it is first needed and then kept in `given.out`."""

    def __init__(self, given):
        self.given = given
        found = data.columns(given, [given.text, given.label], "sentiment.tsv")
        self.splits, self.names = data.classified(
            found, given.text, given.label, given.classes, given.limit
        )
        self.texts = self.splits["train"][0]
        self.tokens = None

    def batches(self, split, seed=None):
        dataset = tf.data.Dataset.from_tensor_slices(self.splits[split])
        if seed is not None:
            dataset = dataset.shuffle(len(self.texts), seed=seed)
        return dataset.batch(BATCH)

    def pretrained(self):
        return classifier(self.given, self.texts, len(self.names))

    @functools.cached_property
    def teacher(self):
        file = self.given.out / "teacher.keras"
        if not file.exists():
            keras.utils.set_random_seed(0)
            task = self.pretrained()
            self.fit(Distiller(task), self.batches("train", 0), file, self.given.teacher_epochs,
                     self.given.rate, task)  # fmt: skip
        return loaded(file, self.given.tiny)

    def fit(self, distiller, batches, file, epochs, rate, task):
        steps = epochs * -(-len(self.texts) // BATCH)
        optimizer = keras.optimizers.AdamW(warmed_up(rate, steps), weight_decay=0.01)
        distiller.compile(optimizer, LOSS, metrics=["accuracy"], run_eagerly=self.given.tiny)
        if self.tokens is None:
            self.tokens = count_tokens(task.preprocessor.tokenizer, self.texts, self.given.length)
        train(distiller, batches, file, epochs=epochs, tokens=self.tokens,
              validation_data=self.batches("valid"))  # fmt: skip

    @functools.cached_property
    def targets(self):
        """The cache of what the teacher says of the training texts."""
        terms = token_terms(three_layers(self.teacher, None), self.teacher)
        terms += example_terms(None, self.teacher)
        asked = keras.tree.flatten([term.teacher for term in terms])
        source = ModelTeacher(self.teacher, preprocess=self.teacher.preprocessor)
        folder = str(self.given.out / "targets")
        write_targets(source, self.batches("train"), folder, paths=asked)
        return folder

    def student(self, name, arm, seed):
        """The student `name`, trained as an arm of `arms(name)`."""
        make, terms, epochs, rate = STUDENTS[name]
        epochs = self.given.epochs or epochs
        file = self.given.out / f"{re.sub('[^a-z0-9]+', '_', name)}-{arm}-{seed}.keras"
        if not file.exists():
            keras.utils.set_random_seed(seed)
            cut_from = self.pretrained() if arm == "alone" else self.teacher
            student, batches = make(cut_from, self.texts), self.batches("train", seed)
            distiller = Distiller(student)
            if arm == "distilled":
                batches = read_targets(batches, self.targets)
                distiller = Distiller(
                    student, teacher=CachedTeacher(), terms=terms(student, self.teacher),
                    alpha=self.given.alpha,
                )  # fmt: skip
            self.fit(distiller, batches, file, epochs, rate, self.teacher)
        return loaded(file, self.given.tiny), file


"""
## The table

Accuracy on the test split, from strings; retention is the student's share of the teacher's.
Speeds are of the model on a batch that is in memory, tokens (or, for the convolution, strings)
already in it, by a compiled function on the CPU.
"""


def measured(model, file, texts, labels):
    """One row of the table."""
    logits = model.predict(tf.constant(texts), batch_size=64, verbose=0)
    preprocess = getattr(model, "preprocessor", None) or (lambda strings: strings)
    inputs = preprocess(tf.constant((texts * BATCH)[:BATCH]))
    fast = speed(model, inputs)
    return {
        "accuracy": float(np.mean(logits.argmax(-1) == labels)),
        "parameters": model.count_params(),
        "megabytes": file.stat().st_size / 1e6,
        "ms at 1": fast[1]["ms"],
        "ms at 32": fast[32]["ms"],
        "a second at 1": fast[1]["examples_a_second"],
        "a second at 32": fast[32]["examples_a_second"],
    }


def table(rows):
    """Markdown of `{(student, arm): [row of each seed]}`; the teacher's stands first."""
    heads = ["accuracy %", "retention %", "parameters", "MB", "ms at 1", "ms at 32",
             "a second at 1", "a second at 32"]  # fmt: skip
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    best = rows["teacher", ""][0]["accuracy"]
    for (name, arm), found in rows.items():
        mean = {key: np.mean([row[key] for row in found]) for key in found[0]}
        accuracy = [100 * row["accuracy"] for row in found]
        cells = [spread(accuracy), spread([value / best for value in accuracy])]
        cells += [f"{mean['parameters']:,.0f}", f"{mean['megabytes']:.1f}"]
        cells += [f"{mean[key]:.1f}" for key in ("ms at 1", "ms at 32")]
        cells += [f"{mean[key]:,.0f}" for key in ("a second at 1", "a second at 32")]
        lines.append(f"| {name} {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values):
    """The mean with the sample's deviation, where there are several."""
    deviation = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{deviation}"


def arguments(given=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    data.add_arguments(parser)
    parser.add_argument("--out", default="runs/text_classification", type=pathlib.Path)
    encoders.add_arguments(parser, length=32)
    parser.add_argument("--classes", type=int, help="only the commonest classes")
    parser.add_argument("--limit", type=int, help="only the first rows of each split")
    parser.add_argument("--seeds", default=3, type=int)
    parser.add_argument("--teacher-epochs", default=2, type=int)
    parser.add_argument("--epochs", type=int, help="of every student; by default each has its own")
    parser.add_argument("--rate", default=1e-4, type=float, help="the teacher's learning rate")
    parser.add_argument("--alpha", default=0.8, type=float, help="the teacher's share of the loss")
    parser.add_argument("--split", default="test", choices=["valid", "test"])
    parser.add_argument("--students", nargs="+", default=list(STUDENTS), choices=list(STUDENTS))
    given = encoders.parsed(parser, given)
    if given.tiny:
        given.seeds, given.teacher_epochs, given.epochs, given.length = 1, 1, 1, 16
    return given


def main(given=None):
    given = arguments(given)
    open_folder(given)
    run = Run(given)
    texts, labels = run.splits[given.split]
    row = measured(run.teacher, given.out / "teacher.keras", texts, labels)
    rows = {("teacher", ""): [row]}
    for seed in range(given.seeds):
        for name in given.students:
            for arm in arms(name):
                model, file = run.student(name, arm, seed)
                rows.setdefault((name, arm), []).append(measured(model, file, texts, labels))
        print(f"\n{seed + 1} of {given.seeds} seeds, {given.split} split\n\n{table(rows)}\n")
    results = [{"student": key, "seeds": found} for key, found in rows.items()]
    (given.out / f"{given.split}.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
