"""
# Sentence embeddings from two layers

MiniLM turns a sentence into a vector of 384 numbers, such that sentences that mean nearly the same
lie close together. Its 6 layers are cut to 2 here, and the student is taught, from texts without
any labels, to put every sentence where the teacher puts it.

    python examples/sentence_embeddings.py --data=DIR --out=runs/sentence_embeddings

`DIR` holds `synopsis.tsv` (columns split, short, long: one-line and long descriptions of software),
`minilm/`, the encoder in the format of Hugging Face, and, where they are to be reported,
`wordsim353.tsv` and `simlex999.txt` from gensim's test data. Other texts:

    python examples/sentence_embeddings.py --tfds=cnn_dailymail --text=article --label=highlights \
        --encoder=DIR/minilm
    python examples/sentence_embeddings.py --tsv=FILE --text=document --label=title \
        --encoder=DIR/minilm

The first column holds the documents, the second what they are searched by. `--tiny` tries
it out in a minute, with a random encoder: its numbers mean nothing. A killed run goes on from the
end of the last epoch when the same command is given again. `docs/results.md` says what was run.
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

An embedding is the mean of the last block's vectors over the tokens, of unit length. The student's
encoder is the teacher's first and last block, with their weights.
"""


def embedder(backbone, name):
    """A model from tokens to embeddings, around an encoder."""
    inputs, hidden = backbone.input, backbone.output["sequence_output"]  # without the pooler
    mask = ops.cast(inputs["padding_mask"], "float32")[..., None]
    mean = ops.sum(hidden * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)
    return keras.Model(inputs, keras.layers.UnitNormalization()(mean), name=name)


def fewer_layers(given, backbone):
    """The encoder cut to its first and last block, or to those that `--layers` names."""
    return models.shrink(backbone, layers=given.layers, depth=None if given.layers else 2)


"""
## What is compared

Each sentence's vector with the teacher's, by direction. Then what a search needs, the vectors'
places among each other: distances and angles between the sentences of a batch (RKD), their
similarities, and the order in which the others follow each. The last is a loss of our own; a
formula and its config is all that one needs. It is ListNet's (Cao et al., 2007,
https://www.microsoft.com/en-us/research/publication/learning-to-rank-from-pairwise-approach-to-listwise-approach/)
with the teacher's similarities as the scores to be matched.
"""


@keras.saving.register_keras_serializable(package="sentence_embeddings")
class InBatchRanking(losses.DistillationLoss):
    """`KL` between the softmax, over the other sentences, of similarities over a temperature."""

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

The teacher's embeddings of the training texts are computed once and kept on disk. There are no
labels: `compile` gets no loss, and the terms are all.
"""


def strings(texts, seed=None):
    """Batches of texts; with a seed they are shuffled, short and long ones apart."""
    dataset = tf.data.Dataset.from_tensor_slices(texts)
    if seed is None:
        return dataset.batch(BATCH)
    dataset = dataset.shuffle(len(texts), seed=seed)
    return dataset.bucket_by_sequence_length(
        lambda text: tf.size(tf.strings.split(text)), [12, 24], [BATCH] * 3
    )


def tokens(preprocess):
    """A function from strings to tokens, padded to the longest of the batch."""

    def function(text):
        found = preprocess(text)
        longest = tf.reduce_max(tf.reduce_sum(tf.cast(found["padding_mask"], tf.int32), -1))
        return {name: value[:, :longest] for name, value in found.items()}

    return function


def distilled(arm, given, texts, teacher, backbone, preprocess, seed, model_of):
    """The student of an arm."""
    keras.utils.set_random_seed(seed)
    read, targets = tokens(preprocess), str(given.out / "targets")
    named = {"teacher.preprocess": f"tokens of {given.encoder}, at most {given.length}, version 1"}
    source = ModelTeacher(teacher, preprocess=read)
    write_targets(source, strings(texts), targets, fingerprints=named)
    batches = read_targets(strings(texts, seed), targets)  # found by the string
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
## How good a vector is

- recall@k: how often a document is among the k nearest to its title, among all test documents;
- Spearman's correlation of the similarity of two words with people's judgement;
- agreement: the share of a document's 10 nearest that are also the teacher's 10 nearest.

Speeds are of teacher and student in turn, on documents' tokens, by a compiled function on the CPU.
"""


def ranks(queries, documents):
    """At which place, from 0, each query's own document stands."""
    similarity = queries @ documents.T
    return (similarity > np.diag(similarity)[:, None]).sum(1)


def neighbours(vectors, count=10):
    """The set of the nearest others of each vector."""
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    count = min(count, len(vectors) - 1)
    nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    return [set(row) for row in nearest.tolist()]


def word_pairs(folder):
    """`{name: (pairs, judgements)}` of the files of word pairs that are in a folder."""
    found = {}
    for name, file in (("WordSim-353", "wordsim353.tsv"), ("SimLex-999", "simlex999.txt")):
        path = folder / file if folder else None
        if path and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
            found[name] = [row[:2] for row in rows], [float(row[2]) for row in rows]
    return found


class Test:
    """The texts of the table, made into tokens once for all models.

    Args:
        documents: texts.
        queries: what each of them is searched by.
        pairs: of words, as `word_pairs` gives them.
        preprocess: makes tokens of strings.
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
        self.teachers = None  # the documents' neighbours, as the teacher sees them

    def measure(self, seed, model, model_of):
        """One row of the table. The teacher is measured first."""
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
    parser = argparse.ArgumentParser(description="Sentence embeddings from two layers.")
    data.add_arguments(parser, text="long", label="short")
    parser.add_argument("--out", default="runs/sentence_embeddings", type=pathlib.Path)
    encoders.add_arguments(parser, length=48)
    parser.add_argument(
        "--limit", default=5000, type=int, help="rows to learn from, two texts each"
    )
    parser.add_argument("--documents", default=5000, type=int, help="of the test split")
    parser.add_argument("--split", default="test", choices=["valid", "test"])
    parser.add_argument("--seeds", default=1, type=int)
    parser.add_argument("--epochs", default=3, type=int)
    parser.add_argument("--layers", nargs="+", type=int, help="kept blocks, from 0")
    parser.add_argument("--rate", default=6e-4, type=float)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
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
