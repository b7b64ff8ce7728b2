r"""
# Sentence embeddings from two layers

MiniLM turns a sentence into a vector of 384 numbers. Sentences with nearly the same meaning get
nearby vectors, so that you can search by meaning. This example cuts the 6 layers of MiniLM to 2,
which makes search cheaper. The student learns to give each sentence the teacher's vector, from
texts without any labels.

    python examples/sentence_embeddings.py --data=DIR --out=runs/sentence_embeddings

`--data=DIR` reads `synopsis.tsv` from the folder `DIR`. It has the columns split, short and long,
with one-line and long descriptions of software. The folder also holds `minilm/`, the encoder in the
format of Hugging Face. If the folder holds `wordsim353.tsv` and `simlex999.txt` from gensim's test
data, the example reports them, too.

`--tsv=FILE` reads a table of yours instead, and `--tfds=NAME` downloads a data set from TensorFlow
Datasets. `--text=` names the column of the documents, and `--label=` the column of the texts that
search for them:

    python examples/sentence_embeddings.py --tfds=cnn_dailymail --text=article --label=highlights \
        --encoder=DIR/minilm
    python examples/sentence_embeddings.py --tsv=FILE --text=document --label=title \
        --encoder=DIR/minilm

`--tiny` runs everything in about a minute with a random encoder, with numbers that mean nothing. To
resume a killed run, give the same command again. It continues after the last whole epoch.
`docs/results.md` says what was run.
"""

import argparse
import functools
import json
import pathlib

import data
import encoders
import keras
import numpy as np
import tensorflow as tf
from keras import ops
from speeds import speeds
from training import count_tokens, loader, settings, train, warmed_up

from keras_distill import CachedTeacher, Distiller, ModelTeacher, Term, losses, models, report
from keras_distill.data import read_targets, write_targets
from keras_distill.experiments import Arm, Runner

BATCH = 64

"""
## The teacher and its student

An embedding is the mean of the last block's vectors over the tokens, scaled to unit length. The
student's encoder is the first and the last block of the teacher, with their weights.
"""


def embedder(backbone, name):
    """Wraps an encoder in a model from tokens to embeddings."""
    inputs, hidden = backbone.input, backbone.output["sequence_output"]  # the pooler is not used
    mask = ops.cast(inputs["padding_mask"], "float32")[..., None]
    mean = ops.sum(hidden * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)
    return keras.Model(inputs, keras.layers.UnitNormalization()(mean), name=name)


def fewer_layers(given, backbone):
    """Cuts the encoder to its first and last block, or to the blocks that `--layers` names."""
    return models.shrink(backbone, layers=given.layers, depth=None if given.layers else 2)


"""
## What is compared

One term compares the direction of each sentence's vector with the teacher's. A search also needs
the right positions of the vectors relative to each other. Three losses of the package compare the
distances and the angles between the sentences of a batch (RKD) and their similarities. The last
term compares in which order the other sentences follow each sentence. Its loss is defined here,
since a loss needs only a formula and its config. It is the loss of ListNet (Cao et al., 2007,
https://www.microsoft.com/en-us/research/publication/learning-to-rank-from-pairwise-approach-to-listwise-approach/).
The scores to match are the teacher's similarities.
"""


@keras.saving.register_keras_serializable(package="sentence_embeddings")
class InBatchRanking(losses.DistillationLoss):
    """The KL divergence between softmaxes over the other sentences of the batch.

    The softmaxes are of the similarities, divided by the temperature.
    """

    same_shape = False
    across_batch = True
    config = ("temperature",)

    def __init__(self, temperature=0.05, **kwargs):
        super().__init__(**kwargs)
        self.temperature = temperature

    def call(self, y_true, y_pred):
        teacher, student = self._log_order(y_true), self._log_order(y_pred)
        return ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)

    def _log_order(self, vectors):
        itself = 1e9 * ops.eye(ops.shape(vectors)[0])
        similarity = ops.matmul(vectors, ops.transpose(vectors)) / self.temperature
        return ops.log_softmax(similarity - itself, axis=-1)


def pointwise():
    return [Term(losses.Cosine(), weight=10.0)]


def relational():
    return [
        *pointwise(),
        Term(losses.RelationalDistance(), weight=1.0),
        Term(losses.RelationalAngle(), weight=2.0),
        Term(losses.SimilarityPreserving(), weight=1.0),
        Term(InBatchRanking()),
    ]


ARMS = {"cosine": pointwise, "cosine, relations, ranking": relational}

"""
## The run

The example computes the teacher's embeddings of the training texts once and keeps them on disk.
There are no labels, so `compile` gets no loss, and the terms are the whole loss.
"""


def strings(texts, seed=None):
    """Batches texts. With a seed it shuffles them and batches texts of similar length."""
    dataset = tf.data.Dataset.from_tensor_slices(texts)
    if seed is None:
        return dataset.batch(BATCH)
    dataset = dataset.shuffle(len(texts), seed=seed)
    return dataset.bucket_by_sequence_length(
        lambda text: tf.size(tf.strings.split(text)), [12, 24], [BATCH] * 3
    )


def tokens(preprocess):
    """Returns a function from strings to tokens, padded to the longest text of the batch."""

    def function(text):
        found = preprocess(text)
        longest = tf.reduce_max(tf.reduce_sum(tf.cast(found["padding_mask"], tf.int32), -1))
        return {name: value[:, :longest] for name, value in found.items()}

    return function


def distilled(arm, given, texts, teacher, backbone, preprocess, seed, model_of):
    """Trains the student of an arm."""
    keras.utils.set_random_seed(seed)
    read, targets = tokens(preprocess), str(given.out / "targets")
    named = {"teacher.preprocess": f"tokens of {given.encoder}, at most {given.length}, version 1"}
    source = ModelTeacher(teacher, preprocess=read)
    write_targets(source, strings(texts), targets, fingerprints=named)
    batches = read_targets(strings(texts, seed), targets)  # each string finds its target
    batches = batches.map(lambda text, known: (read(text), known), tf.data.AUTOTUNE)
    student = embedder(fewer_layers(given, backbone), "student")
    distiller = Distiller(student, teacher=CachedTeacher(), terms=ARMS[arm]())
    steps = given.epochs * -(-len(texts) // BATCH)
    optimizer = keras.optimizers.AdamW(warmed_up(given.rate, steps))
    distiller.compile(optimizer, run_eagerly=given.tiny)
    count = count_tokens(preprocess.tokenizer, texts, given.length)
    return train(distiller, batches.prefetch(2), given.out / "backups" / f"{arm}-{seed}",
                 epochs=given.epochs, tokens=count)  # fmt: skip


"""
## How good the vectors are

The table has these measures:

- recall@k is how often a document is among the k nearest to its title, among all test documents.
- Spearman's correlation compares the similarity of two words with the judgement of people.
- agreement is the share of a document's 10 nearest documents that are also the teacher's 10
  nearest.

The speeds are those of teacher and student, which take turns. A compiled function runs them on the
CPU, on the tokens of documents.
"""


def ranks(queries, documents):
    """Returns the rank of each query's own document, from 0."""
    similarity = queries @ documents.T
    return (similarity > np.diag(similarity)[:, None]).sum(1)


def neighbours(vectors, count=10):
    """Returns the set of the nearest other vectors for each vector."""
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    count = min(count, len(vectors) - 1)
    nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    return [set(row) for row in nearest.tolist()]


def word_pairs(folder):
    """Returns `{name: (pairs, judgements)}` from the files of word pairs that the folder holds."""
    found = {}
    for name, file in (("WordSim-353", "wordsim353.tsv"), ("SimLex-999", "simlex999.txt")):
        path = folder / file if folder else None
        if path and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
            found[name] = [row[:2] for row in rows], [float(row[2]) for row in rows]
    return found


class Test:
    """The texts of the table, tokenized once for all models.

    Args:
        documents: a list of texts.
        queries: the texts that search for each document.
        pairs: pairs of words, as `word_pairs` returns them.
        preprocess: a function from strings to tokens.
    """

    def __init__(self, documents, queries, pairs, preprocess):
        def read(texts):
            return strings(texts).map(tokens(preprocess)).cache()

        self.documents, self.queries = read(documents), read(queries)
        self.pairs = {
            name: ([read(list(words)) for words in zip(*pairs, strict=True)], judged)
            for name, (pairs, judged) in pairs.items()
        }
        self.timed = preprocess(tf.constant((documents * 32)[:32]))
        self.teachers = None  # the teacher's nearest documents of each document

    def measure(self, seed, model, model_of):
        """Returns one row of the table. The teacher must be measured first."""
        from scipy.stats import spearmanr

        documents = model.predict(self.documents, verbose=0)
        place = ranks(model.predict(self.queries, verbose=0), documents)
        row = {f"recall@{k}": float(np.mean(place < k)) for k in (1, 10)}
        for pairs, (words, judged) in self.pairs.items():
            one, other = (model.predict(side, verbose=0) for side in words)
            row[pairs] = float(spearmanr((one * other).sum(1), judged).statistic)
        near = neighbours(documents)
        self.teachers = self.teachers or near
        same = [len(ours & theirs) / len(ours) for ours, theirs in zip(near, self.teachers)]
        size = round(report.size_on_disk(model) / 1e6)
        return {**row, "agreement": float(np.mean(same)), "parameters": model.count_params(),
                "MB": size}  # fmt: skip


def arguments(given=None):
    parser = argparse.ArgumentParser(description="Distills sentence embeddings to two layers.")
    data.add_arguments(parser, text="long", label="short")
    parser.add_argument("--out", default="runs/sentence_embeddings", type=pathlib.Path,
                        help="the folder of the results")  # fmt: skip
    encoders.add_arguments(parser, length=48)
    parser.add_argument(
        "--limit", default=5000, type=int, help="training rows, each with two texts"
    )
    parser.add_argument("--documents", default=5000, type=int, help="documents of the test split")
    parser.add_argument("--split", default="test", choices=["valid", "test"],
                        help="the split to measure; choose settings on `valid`")  # fmt: skip
    parser.add_argument("--seeds", default=1, type=int, help="how many seeds to run")
    parser.add_argument("--epochs", default=3, type=int, help="the epochs of each student")
    parser.add_argument("--layers", nargs="+", type=int, help="the blocks to keep, from 0")
    parser.add_argument("--rate", default=6e-4, type=float, help="the highest learning rate")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS),
                        help="the ways to compare (default: all)")  # fmt: skip
    given = encoders.parsed(parser, given)
    if given.tiny:
        given.seeds, given.epochs, given.length = 1, 1, 16
        given.limit, given.documents = 64, 128
    return given


def main(given=None):
    given = arguments(given)
    found = data.columns(given, [given.text, given.label], "synopsis.tsv")
    learned = {name: column[: given.limit] for name, column in found["train"].items()}
    texts = [text for column in learned.values() for text in column]
    asked = [found[given.split][name][: given.documents] for name in (given.text, given.label)]
    keras.utils.set_random_seed(0)
    backbone, preprocess = encoders.encoder(given, texts)
    teacher, test = embedder(backbone, "teacher"), Test(*asked, word_pairs(given.data), preprocess)
    teacher.run_eagerly = given.tiny
    encoder = fewer_layers(given, backbone)
    cut, size = embedder(encoder, "cut"), f"{encoder.num_layers} layers"
    only_cut = f"{size}, only cut"
    arms = {
        "teacher": Arm(lambda seed, model_of: (teacher, {}), test.measure, once=True),
        only_cut: Arm(lambda seed, model_of: (cut, {}), test.measure, once=True),
    }
    for arm in given.arms:
        learn = functools.partial(distilled, arm, given, texts, teacher, backbone, preprocess)
        arms[f"{size}, {arm}"] = Arm(learn, test.measure)
    runner = Runner(arms, seeds=given.seeds, folder=given.out, settings=settings(given),
                    load=loader(given))  # fmt: skip
    runner.run(resume=True, title=f"{given.split} split", digits=3)
    found = speeds({name: (runner.model(name), test.timed) for name in ("teacher", only_cut)})
    for name, fast in found.items():
        print(f"{name}: {fast[1]['ms']:.1f} ms at batch 1, "
              f"{fast[32]['examples_a_second']:,.0f} texts a second at batch 32")  # fmt: skip
    (given.out / f"{given.split}.json").write_text(json.dumps({"speeds": found}, indent=1))


if __name__ == "__main__":
    main()
