r"""
# A sentiment classifier with half the layers, and one for a phone

This example fine-tunes a pretrained MiniLM encoder (6 layers, 22.7 million parameters) on sentences
of movie reviews. It then distills this teacher into four smaller students:

- "3 layers" keeps three layers, among them the first and the last.
- "2 layers" keeps the first and the last layer, and three quarters of the inner units in each.
- "2 layers, 8,000 tokens" keeps the first and the last layer, and the 8,000 most common of the
  30,522 tokens.
- "convolution" is a convolution over words, with half a million parameters.

Each student is trained alone and distilled, for each seed and for the same number of steps. Alone,
the 3 layers are cut from the *pretrained* encoder and fine-tuned on the labels. Distilled, they are
cut from the *fine-tuned* teacher, and learn from the labels and from the teacher. The 2 layers are
cut from the trained 3 layers, alone or distilled. Such a cut loses less at once than a cut from 6
layers. Learning rates and dropout suit each arm.

    python examples/text_classification.py --data=DIR --out=runs/text_classification

`--data=DIR` reads `sentiment.tsv` from the folder `DIR`, with the columns split, label and text.
The folder also holds `minilm/`, the encoder in the format of Hugging Face. `--tsv=FILE` reads a
table of yours instead, and `--tfds=NAME` downloads a data set from TensorFlow Datasets.
`--encoder=` takes another encoder:

    python examples/text_classification.py --tfds=imdb_reviews --length=256 \
        --encoder=bert_small_en_uncased --versions=1
    python examples/text_classification.py --tfds=glue/sst2 --text=sentence --encoder=DIR/minilm
    python examples/text_classification.py --tsv=FILE --text=long --label=section --classes=25 \
        --limit=10000 --length=64 --seeds=1 --encoder=DIR/minilm

`--tiny --limit=64` runs everything with a random encoder, with numbers that mean nothing. To resume
a killed run, give the same command again. It continues after the last whole epoch.
`docs/results.md` says what was run.
"""

import argparse
import functools
import json
import pathlib
import typing

import data
import encoders
import keras
import keras_hub
import numpy as np
import tensorflow as tf
from keras import layers
from speeds import speeds
from training import count_tokens, loader, settings, train, warmed_up

from keras_distill import CachedTeacher, Distiller, ModelTeacher, Term, losses, models, recipes
from keras_distill.data import read_targets, write_targets
from keras_distill.experiments import Arm, Runner, markdown

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
BATCH = 32

"""
## The teacher

The teacher is KerasHub's classifier around the pretrained encoder. It takes strings, and its
preprocessor tokenizes them. This part does not need the package yet.
"""


def classifier(given, texts, classes):
    """Returns the pretrained encoder with a new head."""
    backbone, preprocess = encoders.encoder(given, texts)
    return with_fixed_tokens(
        keras_hub.models.BertTextClassifier(backbone, classes, preprocess, name="teacher")
    )


def with_fixed_tokens(task):
    """Freezes the token embedding of a task and returns the task.

    The embedding has half of the weights. Updating all of them at every step would take a fifth of
    the 3 layers' time.
    """
    task.backbone.get_layer("token_embedding").trainable = False
    return task


"""
## The students

`models.shrink` cuts a smaller task out of a task. It keeps blocks with their weights. The last
block is among them, because the classifier's head expects its vectors. With fewer inner units, it
keeps those that count most on some texts (`importance`). With fewer tokens, it also makes a
tokenizer that spells the removed tokens by shorter ones.

The distilled students are trained without dropout. The teacher answers for ever new texts, so there
is little to overfit, and vectors with dropped values never match the teacher's. The last student is
a plain Keras model from strings to logits, with one convolution over the vectors of words.
"""


def without_dropout(task):
    """Returns the same classifier without dropout."""
    backbone = type(task.backbone).from_config({**task.backbone.get_config(), "dropout": 0.0})
    same = keras_hub.models.BertTextClassifier(
        backbone, task.num_classes, task.preprocessor, dropout=0.0
    )
    same.set_weights(task.get_weights())
    return same


def three_layers(task, texts=()):
    return with_fixed_tokens(models.shrink(task, depth=3, name="student"))


def two_layers(task, texts, feed_forward=0.75):
    width = int(feed_forward * task.backbone.intermediate_dim)
    words = [task.preprocessor(tf.constant(texts[:256]))]
    student = models.shrink(task, depth=2, feed_forward=width, importance=words, name="student")
    return with_fixed_tokens(student)


def fewer_tokens(task, texts, tokens=8000):
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

If the student has the teacher's tokens, it learns from three kinds of knowledge. They are the
softened outputs, the directions of the blocks' hidden states, and the relations between the
queries, keys and values of the last block, as in MiniLM. The 3 layers follow every second block of
the teacher. The 2 layers are the first and the last of these, and follow the same blocks.

If the student has another tokenizer, its third token is not the teacher's third token. It then
learns only what has one value for each example. That is the outputs, the pooled vector, and the
similarities between the examples of a batch.
"""

POOLED = "backbone/pooled_dense"
MASK = "input:padding_mask"


def token_terms(student, teacher):
    theirs = [path for _, path in block_pairs(three_layers(teacher), teacher)]
    ours = [path for path, _ in block_pairs(student, teacher)]
    pairs = [*zip(ours[:-1], theirs), (ours[-1], theirs[-1])]  # the last follows the last
    hidden = [
        Term(losses.Cosine(), student=ours, teacher=theirs, mask=MASK, weight=1 / len(pairs),
             name=f"hidden_{index}")
        for index, (ours, theirs) in enumerate(pairs)
    ]  # fmt: skip
    return [*output_terms(student, teacher), *hidden, *recipes.minilm(student, teacher, mask=MASK)]


def block_pairs(student, teacher):
    return recipes.matching.match_layers(student, teacher, verbose=False)


def example_terms(student, teacher):
    return [
        *output_terms(student, teacher),
        Term(losses.Cosine(), student=POOLED, teacher=POOLED, name="pooled"),
        Term(losses.SimilarityPreserving(), student=POOLED, teacher=POOLED, weight=10.0,
             name="similarity"),
    ]  # fmt: skip


def output_terms(student, teacher):
    return [Term(losses.KLDivergence(temperature=2.0))]


"""
## More texts than the data hold

A teacher can also answer for texts that are not in the data. The distilled students see each
sentence in several versions. In a version, some words are left out and some are replaced. The
teacher answers for that version. Students without a teacher see such versions, too, with the label
of the whole sentence.

The cache keeps the teacher's hidden states for every token. For MiniLM that is 5 kB for each token
and version. If your texts are long or many, use fewer `--versions`.
"""


def worn(text, seed, words, dropped=0.1, replaced=0.15):
    """Leaves out a share of a sentence's words and replaces another share by random `words`."""
    found = tf.strings.split(text)
    first, second = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    draw = tf.random.stateless_uniform(tf.shape(found), first)
    index = tf.random.stateless_uniform(tf.shape(found), second, 0, len(words), tf.int32)
    found = tf.where(draw > 1 - replaced, tf.gather(words, index), found)
    return tf.strings.reduce_join(tf.boolean_mask(found, draw >= dropped), separator=" ")


WORN = {"augment": "`worn` by the words of the training texts, version 1"}  # identifies the cache


class Student(typing.NamedTuple):
    """One student.

    Attributes:
        make: a function that makes the student.
        terms: a function that returns its terms.
        epochs: the number of epochs.
        rates: the learning rate for each of `ARMS`.
        elder: the name of the student that it is cut from, which is trained before it in the same
            way.
    """

    make: typing.Callable
    terms: typing.Callable
    epochs: int
    rates: tuple
    elder: str | None = None


ARMS = ("alone", "distilled")
STUDENTS = {
    "3 layers": Student(three_layers, token_terms, 8, (2e-4, 4e-4)),
    "2 layers": Student(two_layers, token_terms, 8, (2e-4, 4e-4), "3 layers"),
    "2 layers, 8,000 tokens": Student(fewer_tokens, example_terms, 8, (2e-4, 2e-4), "3 layers"),
    "convolution": Student(convolution, output_terms, 12, (1e-3, 1e-3)),
}


"""
## The run

The teacher runs once over the versions of the training texts. The cache on disk keeps its answers,
and every epoch of every seed reads them. The strings are the keys of the cache, so students with
any tokenizer find their targets. Each trained model is a file, so you can resume the run.
"""


class Run:
    """The arms of one run, which are the teacher, and each student alone and distilled."""

    def __init__(self, given):
        self.given = given
        found = data.columns(given, [given.text, given.label], "sentiment.tsv")
        self.splits, self.names = data.classified(
            found, given.text, given.label, given.classes, given.limit
        )
        self.texts = self.splits["train"][0]
        self.worn = functools.partial(worn, words=" ".join(self.texts).split())
        self.tokens, self.best = None, None

    def runner(self):
        arms = {"teacher": Arm(self.teacher, self.measure_teacher, once=True)}
        for name in STUDENTS:
            for arm in ARMS:
                shown = name in self.given.students and arm in self.given.arms
                train = functools.partial(self.student, name, arm)
                arms[f"{name} {arm}"] = Arm(train, self.measure if shown else None)
        return Runner(arms, seeds=self.given.seeds, folder=self.given.out,
                      settings=settings(self.given), load=loader(self.given))  # fmt: skip

    def batches(self, split, seed=None, wear=False):
        """Returns batches of strings with labels.

        A seed shuffles them. With `wear`, each sentence becomes a random version of itself.
        """
        dataset = tf.data.Dataset.from_tensor_slices(self.splits[split])
        if seed is not None:
            dataset = dataset.shuffle(len(self.texts), seed=seed)
        if wear:
            seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).batch(2)
            dataset = tf.data.Dataset.zip(dataset, seeds)
            dataset = dataset.map(lambda pair, seed: (self.worn(pair[0], seed), pair[1]))
        return dataset.batch(BATCH)

    def pretrained(self):
        return classifier(self.given, self.texts, len(self.names))

    def teacher(self, seed, model_of):
        keras.utils.set_random_seed(0)
        task = self.pretrained()
        return self.fit(Distiller(task), self.batches("train", 0), "teacher",
                        self.given.teacher_epochs, self.given.rate, task)  # fmt: skip

    def fit(self, distiller, batches, name, epochs, rate, task):
        steps = epochs * -(-len(self.texts) // BATCH)
        optimizer = keras.optimizers.AdamW(warmed_up(rate, steps), weight_decay=0.01)
        distiller.compile(optimizer, LOSS, metrics=["accuracy"], run_eagerly=self.given.tiny)
        if self.tokens is None:
            self.tokens = count_tokens(task.preprocessor.tokenizer, self.texts, self.given.length)
        return train(distiller, batches, self.given.out / "backups" / name, epochs=epochs,
                     tokens=self.tokens, validation_data=self.batches("valid"))  # fmt: skip

    def taught(self, terms, seed, teacher):
        """Returns batches with the teacher's answers.

        There are two caches. The large one has the vectors of every token, for all students with
        the teacher's tokens. The other one has values of whole examples.
        """
        source = ModelTeacher(teacher, preprocess=teacher.preprocessor)
        asked, paths, of_tokens = (
            set(keras.tree.flatten([term.teacher for term in each])) for each in (
                terms, example_terms(None, None), token_terms(three_layers(teacher), teacher))
        )  # fmt: skip
        name = "targets" if asked <= paths else "token_targets"
        paths = paths if asked <= paths else paths | of_tokens
        folder = str(self.given.out / name)
        write_targets(source, self.batches("train"), folder, paths=sorted(paths),
                      views=self.given.versions, augment=self.worn, fingerprints=WORN)  # fmt: skip
        return read_targets(self.batches("train", seed), folder, augment=self.worn,
                            fingerprints=WORN)  # fmt: skip

    def origin(self, student, arm, teacher, model_of):
        """Returns the task that a student is cut from."""
        if student.elder:
            return model_of(f"{student.elder} {arm}")
        return self.pretrained() if arm == "alone" else without_dropout(teacher)

    def student(self, name, arm, seed, model_of):
        """Trains the student `name` as one of `ARMS`."""
        student, teacher = STUDENTS[name], model_of("teacher")
        origin = self.origin(student, arm, teacher, model_of)
        keras.utils.set_random_seed(seed)
        model = student.make(origin, self.texts)
        if arm == "distilled":
            terms = student.terms(model, teacher)
            batches = self.taught(terms, seed, teacher)
            distiller = Distiller(
                model, teacher=CachedTeacher(), terms=terms, alpha=self.given.alpha
            )
        else:
            batches = self.batches("train", seed, wear=True)
            distiller = Distiller(model)
        epochs = self.given.epochs or student.epochs
        rate = student.rates[ARMS.index(arm)]
        return self.fit(distiller, batches, f"{name} {arm}-{seed}", epochs, rate, teacher)

    def measure_teacher(self, seed, model, model_of):
        self.best = accuracy(model, *self.splits[self.given.split])
        return self.measure(seed, model, model_of)

    def measure(self, seed, model, model_of):
        """Returns the accuracy and its share of the teacher's accuracy, in percent."""
        found = accuracy(model, *self.splits[self.given.split])
        return {"accuracy %": 100 * found, "retention %": 100 * found / self.best}


"""
## The tables

One table shows the accuracy on the test split, from strings. Retention is the student's accuracy as
a share of the teacher's. The other table shows the costs. A compiled function on the CPU runs each
model on a batch in memory, which holds tokens (or strings, for the convolution). The models take
turns.
"""


def accuracy(model, texts, labels):
    logits = model.predict(tf.constant(texts), batch_size=64, verbose=0)
    return float(np.mean(logits.argmax(-1) == labels))


def costs(models, texts):
    """Returns what each model costs, `{name: row}`.

    Args:
        models: `{name: (model, file)}`.
        texts: a list of strings.
    """
    batch, inputs = tf.constant((texts * BATCH)[:BATCH]), {}
    for name, (model, _) in models.items():
        preprocess = getattr(model, "preprocessor", None) or (lambda strings: strings)
        inputs[name] = model, preprocess(batch)
    rows = {}
    for name, fast in speeds(inputs).items():
        model, file = models[name]
        rows[name] = {
            "parameters": model.count_params(), "MB": file.stat().st_size / 1e6,
            "ms at 1": fast[1]["ms"], "ms at 32": fast[32]["ms"],
            "a second at 1": fast[1]["examples_a_second"],
            "a second at 32": fast[32]["examples_a_second"],
        }  # fmt: skip
    return rows


def arguments(given=None):
    parser = argparse.ArgumentParser(description="Distills a classifier of sentences.")
    data.add_arguments(parser)
    parser.add_argument("--out", default="runs/text_classification", type=pathlib.Path,
                        help="the folder of the results")  # fmt: skip
    encoders.add_arguments(parser, length=32)
    parser.add_argument("--classes", type=int, help="keep only the most common classes")
    parser.add_argument("--limit", type=int, help="use only the first rows of each split")
    parser.add_argument("--seeds", default=3, type=int, help="how many seeds to run")
    parser.add_argument("--teacher-epochs", default=2, type=int, help="the teacher's epochs")
    parser.add_argument("--versions", default=8, type=int,
                        help="the versions of each text that the teacher answers")  # fmt: skip
    parser.add_argument("--epochs", type=int, help="the epochs of each student (default: its own)")
    parser.add_argument("--rate", default=1e-4, type=float, help="the teacher's learning rate")
    parser.add_argument("--alpha", default=0.8, type=float, help="the teacher's share of the loss")
    parser.add_argument("--split", default="test", choices=["valid", "test"],
                        help="the split to measure; choose settings on `valid`")  # fmt: skip
    parser.add_argument("--students", nargs="+", default=list(STUDENTS), choices=list(STUDENTS),
                        help="the students to train")  # fmt: skip
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS,
                        help="whether students are trained alone, distilled, or both")  # fmt: skip
    given = encoders.parsed(parser, given)
    if given.tiny:
        given.seeds, given.teacher_epochs, given.epochs, given.length = 1, 1, 1, 16
        given.versions = 2
    return given


def main(given=None):
    given = arguments(given)
    run = Run(given)
    runner = run.runner()
    runner.run(resume=True, title=f"{given.split} split")
    models, last = {"teacher": (runner.model("teacher"), runner.file("teacher"))}, given.seeds - 1
    for name in given.students:
        arm = f"{name} {given.arms[-1]}"
        models[name] = runner.model(arm, last), runner.file(arm, last)
    rows = costs(models, run.splits[given.split][0])
    print(f"{markdown(rows, 3)}\n")
    (given.out / f"{given.split}.json").write_text(json.dumps({"costs": rows}, indent=1))


if __name__ == "__main__":
    main()
