"""
# Summaries in one line, by a decoder with fewer layers

A BART-style teacher is trained to say in one line what a software package is, from its long
description: an encoder reads, a decoder writes. First it learns to read and write at all, as BART
does, from texts alone: words are left out, and it writes the text with them. Most of the time of a
summary goes into the decoder, which runs once for each token, so a student keeps the encoder and
loses decoder blocks. It is trained

- on the summaries in the data, as a student without a teacher is;
- on the teacher's probabilities of each token ("logits");
- on these, on the hidden states of encoder and decoder, and on where the decoder looks in the text,
  its cross-attention ("logits and features");
- by sequence: on summaries that the teacher wrote.

    python examples/summarization.py --data=DIR --out=runs/summarization

`DIR` holds `synopsis.tsv` (columns split, short, long). Other texts with summaries:

    python examples/summarization.py --tsv=FILE --text=article --label=highlights
    python examples/summarization.py --tfds=gigaword --text=document --label=summary

`--tiny --limit=64` tries it out in under a minute: its numbers and its summaries mean nothing. A
killed run goes on from the end of the last epoch when the same command is given again. What is
trained and written is kept, so that the same command measures the times alone anew.
"""

import argparse
import functools
import json
import pathlib
import time

import bart
import data
import keras
import numpy as np
from language import fit, from_scratch, tokens_of
from rouge_score import rouge_scorer
from training import loader, settings

from keras_distill import Distiller, Term, losses, models
from keras_distill.data import completion_only, generate
from keras_distill.experiments import Arm, Runner

"""
## The teacher

KerasHub's BART with sizes of our own; `bart.Bart` differs from its backbone only in that the
decoder may have fewer blocks than the encoder.
"""


def teacher_of(given, texts):
    width, depth = (16, 2) if given.tiny else (given.width, given.depth)
    tokenizer = bart.tokenizer(texts, given.tokens)
    backbone = bart.Bart(
        depth, depth, vocabulary_size=tokenizer.vocabulary_size(), num_heads=max(1, width // 32),
        hidden_dim=width, intermediate_dim=4 * width, dropout=given.dropout,
        max_sequence_length=max(given.length, given.summary_length),
    )  # fmt: skip
    backbone = from_scratch(backbone)
    return bart.task(backbone, tokenizer, given.length, given.summary_length, name="teacher")


def with_gaps(texts, share, seed=0):
    """Texts without a share of their words: one of BART's kinds of noise, token deletion
    (Lewis et al., 2020, https://arxiv.org/abs/1910.13461)."""
    draw = np.random.default_rng(seed)
    rows = [np.array(text.split()) for text in texts]
    return [" ".join(["", *words[draw.random(len(words)) >= share]]) for words in rows]


"""
## The students

All start from the same cut, with the teacher's weights: the whole encoder, and `--student-depth` of
the decoder's blocks, from the first to the last (as Shleifer and Rush, 2020,
https://arxiv.org/abs/2010.13002): the first expects embeddings, and the outputs expect the last.

Padding counts for nothing. In the outputs and the decoder it is the sample weight that says so, in
the encoder its padding mask. The cross-attention of a summary's token runs over the tokens of the
text: its divergence from the teacher's is a value for each token of the summary.
"""


def student_of(teacher, depth):
    sides = teacher.backbone.encoder_num_layers, teacher.backbone.decoder_num_layers
    kept = np.linspace(0, sides[1] - 1, depth).round().astype(int).tolist()
    blocks = {"encoder": list(range(sides[0])), "decoder": kept}
    return models.shrink(teacher, layers=blocks, name="student")


def block(side, index):
    return f"backbone/transformer_{side}_layer_{index}"


def output_terms(student, teacher):
    return [Term(losses.KLDivergence(temperature=2.0), name="logits")]


def feature_terms(student, teacher):
    """Each of the student's decoder blocks learns from the last one of those that it stands for."""
    terms = output_terms(student, teacher)
    deep = teacher.backbone.encoder_num_layers
    for index in range(deep):
        path = block("encoder", index)
        terms.append(Term(losses.Cosine(), student=path, teacher=path, weight=1 / deep,
                          mask="input:encoder_padding_mask", name=f"encoder_{index}"))  # fmt: skip
    deep, shallow = teacher.backbone.decoder_num_layers, student.backbone.decoder_num_layers
    for index in range(shallow):
        ours, theirs = block("decoder", index), block("decoder", (index + 1) * deep // shallow - 1)
        terms.append(Term(losses.Cosine(), student=ours, teacher=theirs, weight=1 / shallow,
                          name=f"decoder_{index}"))  # fmt: skip
        terms.append(Term(losses.AttentionDivergence(cross=True), weight=1 / shallow,
                          student=f"{ours}/cross_attention:scores",
                          teacher=f"{theirs}/cross_attention:scores",
                          name=f"cross_attention_{index}"))  # fmt: skip
    return terms


TERMS = {"logits": output_terms, "logits and features": feature_terms}
STUDENTS = ("alone", *TERMS, "sequence-level")


class Run:
    """The arms of one run, each of which is trained once."""

    def __init__(self, given):
        self.given, self.said, self.scores = given, {}, {}
        found = data.columns(given, [given.text, given.label], "synopsis.tsv")
        self.splits = {
            split: [spaced(columns[given.text][: given.limit], given.length),
                    spaced(columns[given.label][: given.limit])]
            for split, columns in found.items()
        }  # fmt: skip
        self.splits["valid"] = [texts[: given.valid] for texts in self.splits["valid"]]
        self.splits["test"] = [texts[: given.test] for texts in self.splits["test"]]

    def runner(self):
        arms = {
            "pretrained": Arm(self.pretrained, once=True),
            BASELINE: Arm(None, self.measure_first_words, once=True),
            "teacher": Arm(self.teacher, functools.partial(self.measure, "teacher"), once=True),
        }
        for name in self.given.students:
            parts = functools.partial(self.student, name), functools.partial(self.measure, name)
            arms[name] = Arm(*parts, once=True)
        return Runner(arms, seeds=1, folder=self.given.out, settings=settings(self.given),
                      load=self.loaded)  # fmt: skip

    def teacher(self, seed, model_of):
        task = model_of("pretrained")
        keras.utils.set_random_seed(0)
        return self.fit(Distiller(task), completion_only(task, *self.splits["train"]), "teacher",
                        self.given.teacher_epochs, self.given.rate)  # fmt: skip

    def pretrained(self, seed, model_of):
        """The teacher before it has seen a summary: it writes the beginning of what it reads."""
        keras.utils.set_random_seed(0)
        task = teacher_of(self.given, sum(self.splits["train"], []))
        texts, valid = (self.splits[split][0] for split in ("train", "valid"))
        pairs = (with_gaps(texts, self.given.gaps), texts)
        return self.fit(Distiller(task), completion_only(task, *pairs), "pretrained",
                        self.given.pretrain_epochs, self.given.rate,
                        valid=(with_gaps(valid, self.given.gaps), valid))  # fmt: skip

    def student(self, name, seed, model_of):
        teacher = model_of("teacher")
        keras.utils.set_random_seed(1)
        student = student_of(teacher, self.given.student_depth)
        distiller, lessons = Distiller(student), self.lessons
        if name in TERMS:
            terms = TERMS[name](student, teacher)
            distiller = Distiller(student, teacher=teacher, terms=terms, alpha=self.given.alpha)
        elif name == "sequence-level":
            wrote = self.written(teacher, "train", "teacher")
            lessons = wrote["prompt"], wrote["answer"], wrote["finished"]
        return self.fit(distiller, completion_only(student, *lessons), name, self.given.epochs,
                        self.given.rate / 2)  # fmt: skip

    def loaded(self, path):
        """A trained task; KerasHub saves all of its preprocessor but the lengths."""
        task = loader(self.given)(path)
        task.preprocessor.encoder_sequence_length = self.given.length
        task.preprocessor.decoder_sequence_length = self.given.summary_length
        return task

    @property
    def lessons(self):
        return [texts[: self.given.student_limit] for texts in self.splits["train"]]

    def written(self, task, split, name):
        """What a model writes about the texts of a split: the likeliest tokens one by one."""
        texts = self.lessons[0] if split == "train" else self.splits[split][0]
        file = self.given.out / f"{name.replace(' ', '_')}.{split}.jsonl"
        return generate(task, texts, file, batch_size=64)

    def fit(self, distiller, rows, name, epochs, rate, valid=None):
        valid = completion_only(distiller.student, *(valid or self.splits["valid"]))
        return fit(distiller, rows, self.given.out / "backups" / name, valid=valid, epochs=epochs,
                   rate=rate, tokens=tokens_of(rows[0]), tiny=self.given.tiny,
                   jit_compile=True)  # fmt: skip

    def measure(self, name, seed, task, model_of):
        """ROUGE of what a model writes about the test texts, and its size."""
        said = self.written(task, "test", name)["answer"]
        return {**self.measure_said(name, said), "parameters": task.count_params()}

    def measure_first_words(self, seed, model, model_of):
        return self.measure_said(BASELINE, first_words(self.splits["test"][0]))

    def measure_said(self, name, said):
        self.said[name], self.scores[name] = said, rouge(said, self.splits["test"][1])
        return {kind: float(np.mean(found)) for kind, found in self.scores[name].items()}


def spaced(texts, length=None):
    """Texts that begin with a space, so that a word is the same token wherever it stands.

    Words beyond a `length` are beyond as many tokens, too: what is cut here need not be read.
    """
    return [" ".join(["", *text.split()[:length]]) for text in texts]


"""
## The table

ROUGE-1, ROUGE-2 and ROUGE-L (F1, mean over the test texts, no stemming) by Google's `rouge-score`.
The baseline says the first eight words of the text.
"""

BASELINE = "the first eight words"
KINDS = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}


def first_words(texts, count=8):
    return [" ".join(text.split()[:count]) for text in texts]


def rouge(said, expected):
    """`{kind: F1 of each text}`."""
    scorer = rouge_scorer.RougeScorer(list(KINDS))
    found = [scorer.score(*pair) for pair in zip(expected, said, strict=True)]
    return {name: [each[kind].fmeasure for each in found] for kind, name in KINDS.items()}


"""
## From a long article to a hundred tokens

How long it takes depends on the sizes, not on the weights. So the articles of a time are longer
than those of the training: a model of the same blocks, with positions enough for all tokens of the
article, reads a thousand words and writes 100 tokens, whatever they are, since no token stops it.
Strings go in and out.
"""


def seconds(task, texts, *, words, tokens, runs):
    """The median time of `runs` summaries, batch size 1, after one that compiles."""
    article = " ".join(" ".join(texts).split()[:words])
    tokenizer = task.preprocessor.tokenizer
    length = len(tokenizer([article])[0]) + 2  # its start and its end
    long = longer(task, length, tokens + 2)  # the decoder's prompt has two
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        long.generate([article], stop_token_ids=None)
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))


def longer(task, length, summary_length):
    """A new model of a task's sizes, for longer texts and summaries."""
    config = {**task.backbone.get_config(), "max_sequence_length": max(length, summary_length)}
    backbone = type(task.backbone).from_config(config)
    long = bart.task(backbone, task.preprocessor.tokenizer, length, summary_length)
    eager = task.run_eagerly
    long.compile(sampler="greedy", run_eagerly=eager, jit_compile=not eager)
    return long


def samples(run, name):
    """Test texts from those about which a model wrote best to those about which it wrote worst."""
    texts, expected = run.splits["test"]
    order = np.argsort(run.scores[name]["ROUGE-L"], kind="stable")[::-1]
    chosen = [order[int(share * (len(order) - 1))] for share in (0.02, 0.1, 0.25, 0.5, 0.75, 0.95)]
    return [
        {"text": " ".join(texts[i].split()[:40]), "expected": expected[i].strip(),
         "teacher": run.said["teacher"][i].strip(), name: run.said[name][i].strip()}
        for i in chosen
    ]  # fmt: skip


def arguments(given=None):
    parser = argparse.ArgumentParser(description="Summaries by a shorter decoder.")
    data.add_arguments(parser, text="long", label="short")
    parser.add_argument("--out", default="runs/summarization", type=pathlib.Path)
    parser.add_argument("--tokens", default=6000, type=int, help="the tokenizer's, at most")
    parser.add_argument("--length", default=48, type=int, help="tokens of a text; the rest is cut")
    parser.add_argument("--summary-length", default=20, type=int, help="tokens of a summary")
    parser.add_argument("--width", default=128, type=int, help="the hidden size")
    parser.add_argument("--depth", default=3, type=int, help="the teacher's blocks on each side")
    parser.add_argument("--student-depth", default=2, type=int, help="the student's decoder blocks")
    parser.add_argument("--dropout", default=0.0, type=float)
    parser.add_argument("--limit", type=int, help="only the first pairs of each split")
    parser.add_argument("--student-limit", type=int, default=16000,
                        help="students learn from the first of the training pairs")  # fmt: skip
    parser.add_argument("--valid", type=int, default=1000, help="so many pairs for validation")
    parser.add_argument("--test", type=int, default=2000, help="so many pairs for the table")
    parser.add_argument("--pretrain-epochs", default=1, type=int, help="on texts alone")
    parser.add_argument("--gaps", default=0.2, type=float, help="the share of words left out")
    parser.add_argument("--teacher-epochs", default=4, type=int)
    parser.add_argument("--epochs", default=1, type=int, help="of every student")
    parser.add_argument("--rate", default=1e-3, type=float, help="the teacher's learning rate")
    parser.add_argument("--alpha", default=0.5, type=float, help="the teacher's share of the loss")
    parser.add_argument("--words", default=1000, type=int, help="of the article that is timed")
    parser.add_argument("--write", default=100, type=int, help="tokens of the timed summary")
    parser.add_argument("--runs", default=5, type=int, help="how often it is timed")
    parser.add_argument("--students", nargs="+", default=list(STUDENTS), choices=list(STUDENTS))
    parser.add_argument("--tiny", action="store_true", help="16 numbers wide, one epoch")
    given = parser.parse_args(given)
    if given.tiny:
        given.length, given.summary_length, given.tokens = 16, 8, 300
        given.words, given.write, given.runs, given.student_depth = 20, 4, 1, 1
    return given


def main(given=None):
    given = arguments(given)
    run = Run(given)
    runner = run.runner()
    runner.run(resume=True, title=f"{len(run.splits['test'][0]):,} test texts", digits=3)
    shown = {name: samples(run, name) for name in given.students}
    for sample in shown[given.students[-1]]:
        print("\n".join(f"{key}: {value}" for key, value in sample.items()), end="\n\n")
    times = {}
    for name in ("teacher", given.students[0]):  # all students have the same sizes
        times[name] = seconds(runner.model(name), run.splits["test"][0], words=given.words,
                              tokens=given.write, runs=given.runs)  # fmt: skip
        kind = "student" if name != "teacher" else name
        print(f"{kind}: {given.words:,} words to {given.write} tokens in {times[name]:.3f} s")
    (given.out / "said.json").write_text(json.dumps({"seconds": times, "said": shown}, indent=1))


if __name__ == "__main__":
    main()
