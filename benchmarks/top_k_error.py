"""Measures the error of cached targets by how much of them is kept, on a small language model.

How it is measured:

- The vocabulary has 8,000 byte-pair words of the text file. The teacher is a transformer of two
  blocks of width 192 that predicts each next of 64 tokens. The student has one block of width 64.
  Both are trained on the text, seeded, by cross-entropy.
- `write_targets` writes targets of sequences outside of the training, and `read_targets` reads them
  back: whole, or the `k` likeliest words and the mass of the rest. Bytes per token are those of the
  files, including what is stored once per example (64 tokens).
- Loss and gradient are those of `KLDivergence`, as means over the tokens. The gradient is with
  respect to the student's logits. Their errors are relative to the live teacher in float32:
  `|L' - L| / L` for the loss and `||G' - G|| / ||G||` over all tokens and words for the gradient.
- "KL" is the divergence of the live teacher from the distribution that a loss makes of the targets,
  the mean in nats. A loss counts all words that were not kept as one, so their mass is spread like
  the student's own probabilities. The gradient is the student's distribution less this one.
  "rounding" is the KL of the `k + 1` classes alone, without the loss inside of the rest. Rounded
  probabilities do not sum to one exactly, so it may be a little below 0.
- The errors also depend on the student. The nearer it is to the teacher, the smaller are the loss
  and the gradient by which the errors are divided.

    python benchmarks/top_k_error.py --data=FOLDER [--k=N] [--temperature=T] [--quick] [--json=FILE]

`FOLDER` holds `text.txt`: paragraphs of English.
"""

import argparse
import os
import pathlib
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from cached_epoch import LENGTH, transformer
from measuring import machine, write_json

from keras_distill import TopK
from keras_distill.data import TargetsOnDisk, read_targets, write_targets
from keras_distill.losses import KLDivergence
from keras_distill.losses.softened import expectation, placed, with_rest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))
import conversation

WORDS, BATCH, TESTED = 8_000, 16, 32  # sequences in a batch and in the targets
SIZES = {"teacher": (2, 192), "student": (1, 64)}  # blocks, width


def sequences(file, count):
    """Returns `count` rows of `LENGTH + 1` tokens, from paragraphs in a seeded order."""
    paragraphs = file.read_text(encoding="utf-8").split("\n\n")
    tokenizer = conversation.tokenizer(paragraphs, WORDS)
    order, tokens = np.random.default_rng(0).permutation(len(paragraphs)), []
    for start in range(0, len(order), 500):
        for ids in tokenizer([paragraphs[at] for at in order[start : start + 500]]):
            tokens.extend(np.asarray(ids).tolist() + [tokenizer.end_token_id])
        if len(tokens) >= count * (LENGTH + 1):
            return np.array(tokens[: count * (LENGTH + 1)], "int32").reshape(count, -1)
    raise ValueError(f"{file} is too short: {len(tokens):,} tokens, not {count * (LENGTH + 1):,}.")


def trained(side, rows):
    """Returns a model that was trained on each row once."""
    keras.utils.set_random_seed(0)
    model = transformer(*SIZES[side], words=WORDS)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3, clipnorm=1.0), loss)
    model.fit(rows[:, :-1], rows[:, 1:], batch_size=BATCH, verbose=0)
    return model


class Live:
    """The live teacher's outputs on the tested sequences, with a student's loss on them."""

    def __init__(self, teacher, student, rows):
        self.teacher = teacher
        self.data = tf.data.Dataset.from_tensor_slices(rows[:, :-1]).batch(len(rows))
        self.logits = _flat(teacher(rows[:, :-1]))
        self.student = _flat(student(rows[:, :-1]))
        labels = rows[:, 1:].ravel()
        entropies = (tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
                     for logits in (self.logits, self.student))  # fmt: skip
        self.entropies = [float(tf.reduce_mean(entropy)) for entropy in entropies]

    def error(self, target, temperature):
        """Returns the table's row for a target: logits, or a `TopK` with one row per token."""
        exact = tf.nn.log_softmax(self.logits / temperature)
        student = tf.nn.log_softmax(self.student / temperature)
        kept = lying_as(target, student, temperature)
        value, gradient = self.slope(target, temperature)
        right, slope = self.slope(self.logits, temperature)
        row = {"kl": _mean(expectation(exact, exact - kept)), "rounding": None}
        if isinstance(target, TopK):
            row["rounding"] = _mean(_kl_of_classes(target, exact))
        row["loss_error"] = float(abs(value - right) / right)
        row["gradient_error"] = float(tf.norm(gradient - slope) / tf.norm(slope))
        return row

    def slope(self, target, temperature):
        """Returns the mean loss, and its gradient with respect to the student's logits."""
        with tf.GradientTape() as tape:
            tape.watch(self.student)
            value = tf.reduce_mean(KLDivergence(temperature).call(target, self.student))
        return value, tape.gradient(value, self.student)


def lying_as(target, student, temperature):
    """Returns the log-probabilities of all words that a loss makes of a target."""
    if not isinstance(target, TopK):
        return tf.nn.log_softmax(target / temperature)
    log_teacher, log_student = with_rest(target, student)
    spread = student + log_teacher[:, -1:] - log_student[:, -1:]
    return placed(spread, target.ids, target.log_probs)


def _kl_of_classes(target, exact):
    """Returns the KL of the kept classes and the rest, from the live teacher's."""
    kept, live = with_rest(target, exact)
    return expectation(live, live - kept)


def _mean(values):
    return float(tf.reduce_mean(values))


def _flat(values):
    return tf.reshape(values, (-1, values.shape[-1]))


def cached(live, temperature, k, dtype):
    """Returns `(target, bytes per token)` after writing it to a folder and reading it back."""
    with tempfile.TemporaryDirectory() as folder:
        write_targets(live.teacher, live.data, folder, top_k=k, temperature=temperature,
                      dtype=dtype, verbose=0)  # fmt: skip
        cache = TargetsOnDisk(folder)
        _, supervision = next(iter(read_targets(live.data, cache)))
        target, size = supervision.targets["output"], cache.size / cache.rows / LENGTH
    if k is None:
        return _flat(target), size
    ids, log_probs = _flat(target.ids), _flat(target.log_probs)
    return TopK(ids, log_probs, tf.reshape(target.log_tail, [-1]), temperature), size


def table(live, ks, temperatures):
    """Returns a row for each way to keep the targets."""
    rows = []
    kinds = [(None, "float32"), (None, "float16")]
    kinds += [(k, dtype) for k in ks for dtype in ("float16", "uint8")]
    for temperature in temperatures:
        for k, dtype in kinds:
            target, size = cached(live, temperature, k, dtype)
            row = {"temperature": temperature, "k": k, "dtype": dtype, "bytes": size}
            rows.append({**row, **live.error(target, temperature)})
            print(line(rows[-1]), flush=True)
    return rows


def line(row):
    """Returns a row in Markdown."""
    rounding = "" if row["rounding"] is None else f"{row['rounding']:.1e}"
    return (
        f"| {row['temperature']:g} | {row['k'] or 'all'} | {row['dtype']} | {row['bytes']:,.0f} | "
        f"{row['kl']:.1e} | {rounding} | {row['loss_error']:.1e} | {row['gradient_error']:.1e} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="the folder of text.txt")
    parser.add_argument("--k", type=int, action="append", help="default: 1, 4, 16, 32, 64, 128")
    parser.add_argument("--temperature", type=float, action="append", help="default: 1 and 2")
    parser.add_argument("--batches", type=int, default=400, help="what the teacher is trained on")
    parser.add_argument("--quick", action="store_true", help="30 batches, k = 16")
    parser.add_argument("--json", metavar="FILE", help="also write results and machine here")
    args = parser.parse_args()
    tf.get_logger().setLevel("ERROR")  # each cache traces again
    batches = 30 if args.quick else args.batches
    ks = args.k or ([16] if args.quick else [1, 4, 16, 32, 64, 128])
    rows = sequences(args.data / "text.txt", batches * BATCH + TESTED)
    train, test = rows[TESTED:], rows[:TESTED]
    live = Live(trained("teacher", train), trained("student", train), test)
    print("Perplexity of the teacher {:.0f}, of the student {:.0f}; {} tokens.".format(
        *np.exp(live.entropies), TESTED * LENGTH))  # fmt: skip
    print("| T | k | dtype | bytes a token | KL | rounding | error of the loss | of its gradient |")
    print("|" + "---|" * 8)
    results = table(live, ks, args.temperature or [1.0, 2.0])
    print(machine())
    if args.json:
        write_json(args.json, entropies=live.entropies, batches=batches, results=results)


if __name__ == "__main__":
    main()
