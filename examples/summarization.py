"""
# One-line summaries by a decoder with fewer layers

A BART-style teacher reads the long description of a software package and writes in one line what
the package is. Its encoder reads, and its decoder writes. The decoder runs once for each token of
the summary, so it takes most of the time. The student therefore keeps the whole encoder and loses
decoder blocks.

The teacher first learns to read and write from texts alone, as BART does. The example leaves out
words, and the teacher writes the whole text. Then it learns to summarize. The example trains
students in four ways:

- "alone" learns from the summaries in the data, without a teacher.
- "logits" also learns the teacher's probabilities of each token.
- "logits and features" also learns the hidden states of encoder and decoder. It learns the
  cross-attention, too, which shows where the decoder looks in the text.
- "sequence-level" learns from summaries that the teacher wrote.

    python examples/summarization.py --data=DIR --out=runs/summarization

`--data=DIR` reads `synopsis.tsv` from the folder `DIR`, with the columns split, short and long.
`--tsv=FILE` reads a table of yours instead, and `--tfds=NAME` downloads a data set from TensorFlow
Datasets. `--text=` and `--label=` name the columns of the texts and of the summaries:

    python examples/summarization.py --tsv=FILE --text=article --label=highlights
    python examples/summarization.py --tfds=gigaword --text=document --label=summary

`--tiny --limit=64` runs everything in under a minute, with numbers and summaries that mean nothing.
To resume a killed run, give the same command again. It continues after the last whole epoch. A
finished run keeps its models and summaries, so the same command only measures the times again.
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

The teacher is KerasHub's BART with smaller sizes. `bart.Bart` differs from its backbone in one way.
The decoder may have fewer blocks than the encoder.
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
    """Leaves out a share of the words of each text.

    This is token deletion, one of BART's kinds of noise (Lewis et al., 2020,
    https://arxiv.org/abs/1910.13461).
    """
    draw = np.random.default_rng(seed)
    rows = [np.array(text.split()) for text in texts]
    return [" ".join(["", *words[draw.random(len(words)) >= share]]) for words in rows]


"""
## The students

All students start from the same layers of the teacher, with their weights. They keep the whole
encoder and `--student-depth` blocks of the decoder. The kept blocks include the first, which
expects embeddings, and the last, which the outputs expect (as in Shleifer and Rush, 2020,
https://arxiv.org/abs/2010.13002).

Padding does not count. The sample weight masks it in the outputs and in the decoder, and the
padding mask of the encoder masks it in the encoder. The cross-attention gives each token of the
summary a distribution over the tokens of the text. Its divergence from the teacher's is therefore
one value for each token of the summary.
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
    """Returns the terms of outputs and features.

    Each decoder block of the student stands for several blocks of the teacher and learns from the
    last of them.
    """
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
    """The arms of one run. The teacher is trained once, and each student under every seed."""

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
            arms[name] = Arm(*parts)
        return Runner(arms, seeds=self.given.seeds, folder=self.given.out,
                      settings=settings(self.given), load=self.loaded)

    def teacher(self, seed, model_of):
        task = model_of("pretrained")
        keras.utils.set_random_seed(0)
        return self.fit(Distiller(task), completion_only(task, *self.splits["train"]), "teacher",
                        self.given.teacher_epochs, self.given.rate)  # fmt: skip

    def pretrained(self, seed, model_of):
        """Trains the teacher to restore texts, before it sees a summary."""
        keras.utils.set_random_seed(0)
        task = teacher_of(self.given, sum(self.splits["train"], []))
        texts, valid = (self.splits[split][0] for split in ("train", "valid"))
        pairs = (with_gaps(texts, self.given.gaps), texts)
        return self.fit(Distiller(task), completion_only(task, *pairs), "pretrained",
                        self.given.pretrain_epochs, self.given.rate,
                        valid=(with_gaps(valid, self.given.gaps), valid))  # fmt: skip

    def student(self, name, seed, model_of):
        teacher = model_of("teacher")
        keras.utils.set_random_seed(seed + 1)
        student = student_of(teacher, self.given.student_depth)
        distiller, lessons = Distiller(student), self.lessons
        if name in TERMS:
            terms = TERMS[name](student, teacher)
            distiller = Distiller(student, teacher=teacher, terms=terms, alpha=self.given.alpha)
        elif name == "sequence-level":
            wrote = self.written(teacher, "train", "teacher")
            lessons = wrote["prompt"], wrote["answer"], wrote["finished"]
        return self.fit(distiller, completion_only(student, *lessons), f"{name}-{seed}",
                        self.given.epochs, self.given.rate / 2, seed=seed)  # fmt: skip

    def loaded(self, path):
        """Loads a trained task and sets the lengths that KerasHub does not save."""
        task = loader(self.given)(path)
        task.preprocessor.encoder_sequence_length = self.given.length
        task.preprocessor.decoder_sequence_length = self.given.summary_length
        return task

    @property
    def lessons(self):
        return [texts[: self.given.student_limit] for texts in self.splits["train"]]

    def written(self, task, split, name):
        """Returns what a model writes about the texts of a split, by its most likely tokens."""
        texts = self.lessons[0] if split == "train" else self.splits[split][0]
        file = self.given.out / f"{name.replace(' ', '_')}.{split}.jsonl"
        return generate(task, texts, file, batch_size=64)

    def fit(self, distiller, rows, name, epochs, rate, valid=None, seed=0):
        valid = completion_only(distiller.student, *(valid or self.splits["valid"]))
        return fit(distiller, rows, self.given.out / "backups" / name, valid=valid, epochs=epochs,
                   rate=rate, tokens=tokens_of(rows[0]), tiny=self.given.tiny,
                   jit_compile=True, seed=seed + 1)  # fmt: skip

    def measure(self, name, seed, task, model_of):
        """Returns ROUGE of what a model writes about the test texts, and its parameters."""
        file = name if name == "teacher" else f"{name}-{seed}"
        said = self.written(task, "test", file)["answer"]
        return {**self.measure_said(name, said), "parameters": task.count_params()}

    def measure_first_words(self, seed, model, model_of):
        return self.measure_said(BASELINE, first_words(self.splits["test"][0]))

    def measure_said(self, name, said):
        found = rouge(said, self.splits["test"][1])
        self.said.setdefault(name, said)  # the first seed's
        self.scores.setdefault(name, found)
        return {kind: float(np.mean(each)) for kind, each in found.items()}


def spaced(texts, length=None):
    """Puts a space before each text, so that a word is the same token at every position.

    A word has at least one token, so words beyond `length` are cut here already.
    """
    return [" ".join(["", *text.split()[:length]]) for text in texts]


"""
## The table

The table shows ROUGE-1, ROUGE-2 and ROUGE-L by Google's `rouge-score`, as F1 without stemming,
averaged over the test texts. The baseline repeats the first eight words of the text.
"""

BASELINE = "the first eight words"
KINDS = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}


def first_words(texts, count=8):
    return [" ".join(text.split()[:count]) for text in texts]


def rouge(said, expected):
    """Returns `{kind: F1 of each text}`."""
    scorer = rouge_scorer.RougeScorer(list(KINDS))
    found = [scorer.score(*pair) for pair in zip(expected, said, strict=True)]
    return {name: [each[kind].fmeasure for each in found] for kind, name in KINDS.items()}


"""
## From a long article to a hundred tokens

The time of a summary depends on the sizes of the model and not on its weights. The example can
therefore time longer articles than those of the training. It makes a model of the same blocks with
enough positions for all tokens of the article. The model reads a thousand words and writes 100
tokens, since no token stops it. The times include the conversion from and to strings.
"""


def seconds(task, texts, *, words, tokens, runs):
    """Returns the median time of `runs` summaries at batch size 1.

    One summary before them compiles the model and is not counted.
    """
    article = " ".join(" ".join(texts).split()[:words])
    tokenizer = task.preprocessor.tokenizer
    length = len(tokenizer([article])[0]) + 2  # with the start and end tokens
    long = longer(task, length, tokens + 2)  # the decoder's prompt has two tokens
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        long.generate([article], stop_token_ids=None)
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))


def longer(task, length, summary_length):
    """Returns a new model of the same sizes for longer texts and summaries."""
    config = {**task.backbone.get_config(), "max_sequence_length": max(length, summary_length)}
    backbone = type(task.backbone).from_config(config)
    long = bart.task(backbone, task.preprocessor.tokenizer, length, summary_length)
    eager = task.run_eagerly
    long.compile(sampler="greedy", run_eagerly=eager, jit_compile=not eager)
    return long


def samples(run, name):
    """Returns test texts from the model's best summaries to its worst."""
    texts, expected = run.splits["test"]
    order = np.argsort(run.scores[name]["ROUGE-L"], kind="stable")[::-1]
    chosen = [order[int(share * (len(order) - 1))] for share in (0.02, 0.1, 0.25, 0.5, 0.75, 0.95)]
    return [
        {"text": " ".join(texts[i].split()[:40]), "expected": expected[i].strip(),
         "teacher": run.said["teacher"][i].strip(), name: run.said[name][i].strip()}
        for i in chosen
    ]  # fmt: skip


def arguments(given=None):
    parser = argparse.ArgumentParser(description="Distills a summarizer to fewer decoder blocks.")
    data.add_arguments(parser, text="long", label="short")
    parser.add_argument("--out", default="runs/summarization", type=pathlib.Path,
                        help="the folder of the results")  # fmt: skip
    parser.add_argument("--tokens", default=6000, type=int, help="the most tokens of the tokenizer")
    parser.add_argument("--length", default=48, type=int, help="tokens of a text; the rest is cut")
    parser.add_argument("--summary-length", default=20, type=int, help="tokens of a summary")
    parser.add_argument("--width", default=128, type=int, help="the hidden size")
    parser.add_argument("--depth", default=3, type=int, help="the teacher's blocks on each side")
    parser.add_argument("--student-depth", default=2, type=int, help="the student's decoder blocks")
    parser.add_argument("--dropout", default=0.0, type=float, help="the share to drop")
    parser.add_argument("--limit", type=int, help="use only the first pairs of each split")
    parser.add_argument("--student-limit", type=int, default=16000,
                        help="the training pairs of the students, from the first")  # fmt: skip
    parser.add_argument("--valid", type=int, default=1000, help="the pairs for validation")
    parser.add_argument("--test", type=int, default=2000, help="the test pairs for the table")
    parser.add_argument("--pretrain-epochs", default=1, type=int,
                        help="the teacher's epochs on texts alone")  # fmt: skip
    parser.add_argument("--gaps", default=0.2, type=float, help="the share of words to leave out")
    parser.add_argument("--teacher-epochs", default=4, type=int,
                        help="the teacher's epochs on summaries")  # fmt: skip
    parser.add_argument("--epochs", default=1, type=int, help="the epochs of each student")
    parser.add_argument("--seeds", default=1, type=int, help="how many seeds of each student")
    parser.add_argument("--rate", default=1e-3, type=float, help="the teacher's learning rate")
    parser.add_argument("--alpha", default=0.5, type=float, help="the teacher's share of the loss")
    parser.add_argument("--words", default=1000, type=int, help="words of the timed article")
    parser.add_argument("--write", default=100, type=int, help="tokens of the timed summary")
    parser.add_argument("--runs", default=5, type=int, help="how many summaries are timed")
    parser.add_argument("--students", nargs="+", default=list(STUDENTS), choices=list(STUDENTS),
                        help="the students to train")  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="a tiny model, one epoch")
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
        times[name] = seconds(runner.model(name, 0), run.splits["test"][0], words=given.words,
                              tokens=given.write, runs=given.runs)  # fmt: skip
        kind = "student" if name != "teacher" else name
        print(f"{kind}: {given.words:,} words to {given.write} tokens in {times[name]:.3f} s")
    (given.out / "said.json").write_text(json.dumps({"seconds": times, "said": shown}, indent=1))


if __name__ == "__main__":
    main()
