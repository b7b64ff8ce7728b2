"""
# A chatbot with a third of the layers

This example trains a byte-pair tokenizer and a GPT-2-style teacher on dialogues and on a dictionary
of computing. The teacher first reads the entries of the dictionary. Then it learns to answer
questions. The meaning of a term X is the answer to "What is X?". Each student keeps the teacher's
first and last layer, so that it answers faster. The example compares the common ways to distill a
language model:

- The student learns from the answers alone, without a teacher.
- The student learns token by token, with the forward KL, the reverse KL, the generalized
  Jensen-Shannon divergence or the skewed KL.
- The student learns by sequence, from answers that the teacher wrote.
- The student learns on policy. It writes the answers of half of the batches itself, and the teacher
  scores them.

The loss covers only the tokens of the answers, because the model must learn to answer and not to
ask.

    python examples/chatbot.py --data=DIR --out=runs/chatbot
    python examples/chatbot.py --chat --out=runs/chatbot

`--data=DIR` reads `dialogue.tsv` from the folder `DIR`, with the columns split, question and
answer. It also reads the dictionary FOLDOC from `text.txt`, if that file exists. `--tsv=FILE` reads
a table of yours instead, and `--tfds=NAME` downloads a data set from TensorFlow Datasets. `--text=`
and `--label=` name the columns of the questions and of the answers.

`--tiny --limit=64` runs everything in under a minute, with numbers and answers that mean nothing.
To resume a killed run, give the same command again. It continues after the last whole epoch.
`--chat` starts a conversation in the terminal with a trained student. The student does not remember
earlier questions.
"""

import argparse
import functools
import json
import pathlib
import time

import conversation
import data
import keras
import keras_hub
import numpy as np
import tensorflow as tf
from language import BATCH, by_length, fit, from_scratch, packed, tokens_of
from training import loader, settings

from keras_distill import Distiller, Term, losses, models
from keras_distill.data import OnPolicy, completion_only, generate
from keras_distill.experiments import Arm, RunFolder, Runner

"""
## The teacher

The teacher is KerasHub's GPT-2 with smaller sizes. It is trained as it would be without this
package, except that `completion_only` makes the batches. A batch holds the tokens of question and
answer, and the sample weight selects the answer. Before that, the teacher learns the language from
the whole entries of the dictionary.
"""


def language_model(given, tokenizer):
    width, depth = (16, 3) if given.tiny else (given.width, given.depth)
    backbone = keras_hub.models.GPT2Backbone(
        tokenizer.vocabulary_size(), num_layers=depth, num_heads=max(1, width // 32),
        hidden_dim=width, intermediate_dim=4 * width, max_sequence_length=given.length,
    )  # fmt: skip
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(
        tokenizer, sequence_length=given.length
    )
    return keras_hub.models.GPT2CausalLM(from_scratch(backbone), preprocessor, name="teacher")


"""
## The students

All students start from the same layers of the teacher and its weights, so that they differ only in
how they are trained. A token-level student learns from the answers in the data and from the
teacher. A sequence-level student learns from answers that the teacher wrote, so it needs no teacher
during training. An on-policy student has no labels, because its own answers may be wrong.
"""

TOKEN_LEVEL = {
    "forward KL": losses.KLDivergence(temperature=1.0),
    "reverse KL": losses.ReverseKL(),
    "Jensen-Shannon": losses.JensenShannon(mix=0.5),
    "skewed KL": losses.SkewedKL(mix=0.1),
}
STUDENTS = ("alone", *TOKEN_LEVEL, "sequence-level", "on-policy")


class Run:
    """The arms of one run. The teacher is trained once, and each student under every seed."""

    def __init__(self, given):
        self.given = given
        self.splits = conversation.pairs(given)
        self.prompts, self.answers = self.splits["train"]

    def runner(self):
        def measure(seed, task, model_of):
            return measured(task, model_of("teacher"), self)

        arms = {
            "pretrained": Arm(self.pretrained, once=True),
            "teacher": Arm(self.teacher, measure, once=True),
        }
        for name in self.given.students:
            arms[name] = Arm(functools.partial(self.student, name), measure)
        return Runner(arms, seeds=self.given.seeds, folder=self.given.out,
                      settings=settings(self.given), load=loader(self.given))  # fmt: skip

    def teacher(self, seed, model_of):
        task = model_of("pretrained")
        keras.utils.set_random_seed(0)
        said = completion_only(task, self.prompts, self.answers)
        return self.fit(Distiller(task), said, "teacher", self.given.teacher_epochs,
                        self.given.rate)  # fmt: skip

    def pretrained(self, seed, model_of):
        """Trains the teacher on texts, before it answers questions."""
        keras.utils.set_random_seed(0)
        pairs = [q + a for q, a in zip(self.prompts, self.answers, strict=True)]
        task = language_model(self.given, conversation.tokenizer(pairs, self.given.tokens))
        texts = conversation.texts(self.given, "train") + list(dict.fromkeys(pairs))
        texts = texts[:16] if self.given.tiny else texts
        valid = conversation.texts(self.given, "valid") or pairs[:BATCH]
        rows, valid = (packed(task.preprocessor.tokenizer, each, self.given.length)
                       for each in (texts, valid))  # fmt: skip
        return self.fit(Distiller(task), rows, "pretrained", self.given.pretrain_epochs,
                        self.given.rate, valid=valid)  # fmt: skip

    def student(self, name, seed, model_of):
        teacher = model_of("teacher")
        keras.utils.set_random_seed(seed + 1)
        student = models.shrink(teacher, depth=2, name="student")
        student.run_eagerly = self.given.tiny
        distiller, batches = self.lesson(name, student, teacher, seed)
        return self.fit(distiller, batches, f"{name}-{seed}", self.given.epochs,
                        self.given.rate / 2, seed=seed)  # fmt: skip

    def lesson(self, name, student, teacher, seed):
        """Returns `(distiller, batches)`, by which the student `name` is trained."""
        if name == "on-policy":
            terms = [Term(TOKEN_LEVEL["Jensen-Shannon"], name="teacher")]
            own = OnPolicy(student, self.prompts, self.answers, share=0.5, batch_size=BATCH,
                           seed=seed)  # fmt: skip
            return Distiller(student, teacher=teacher, terms=terms, alpha=1.0), own
        if name == "sequence-level":
            wrote = self.written(teacher)
            said = completion_only(student, wrote["prompt"], wrote["answer"], wrote["finished"])
            return Distiller(student), said
        said = completion_only(student, self.prompts, self.answers)
        if name == "alone":
            return Distiller(student), said
        terms = [Term(TOKEN_LEVEL[name], name="teacher")]
        return Distiller(student, teacher=teacher, terms=terms, alpha=self.given.alpha), said

    def written(self, teacher):
        """Returns the teacher's answers to every different question in the training data.

        The answers are sampled at temperature 1. The teacher's most likely answers are few, and a
        student of those learns to repeat them.
        """
        prompts = list(dict.fromkeys(self.prompts))
        file = self.given.out / "answers.jsonl"
        return generate(teacher, prompts, file, temperature=1.0, batch_size=64)

    def fit(self, distiller, batches, name, epochs, rate, valid=None, seed=0):
        """Trains a model.

        On policy, the length of the student's answers is not known in advance. The tokens per
        second then count the tokens of the answers in the data.
        """
        task, counted = distiller.student, batches
        if isinstance(batches, tuple):
            batches = by_length(batches, seed=seed + 1)
        else:
            counted = completion_only(task, self.prompts, self.answers)
        valid = valid or completion_only(task, *self.splits["valid"])
        return fit(distiller, batches, self.given.out / "backups" / name, valid=valid,
                   epochs=epochs, rate=rate, tokens=tokens_of(counted[0]),
                   tiny=self.given.tiny)  # fmt: skip


"""
## Streaming

KerasHub's `generate` returns whole texts. The class below shows each token as soon as it exists. It
calls the same functions as `generate`, one after the other. The prompt fills the cache of keys and
values, and each later step reads one token.
"""


class Speaker:
    """Answers a prompt piece by piece.

    Args:
        task: the model.
        temperature: the number that divides the logits; 0 takes the most likely token.
        seed: the seed of the samples.
    """

    def __init__(self, task, temperature=0.7, seed=0):
        self.task, self.temperature = task, temperature
        self.length = task.preprocessor.sequence_length
        self.draw = np.random.default_rng(seed)
        backbone = task.backbone
        self.shape = (1, backbone.num_layers, 2, self.length, backbone.num_heads,
                      backbone.hidden_dim // backbone.num_heads)  # fmt: skip
        run = task.call_with_cache
        self._run = run if task.run_eagerly else tf.function(run)  # one trace for each length

    def pieces(self, prompt):
        """Yields the text of an answer while the model writes it."""
        tokenizer = self.task.preprocessor.tokenizer
        said, shown, text = [], "", ""
        for token in self.tokens(prompt):
            said.append(token)
            text = tokenizer.detokenize(said)
            if not text.endswith("\ufffd"):  # otherwise a letter still lacks bytes
                yield text[len(shown) :]
                shown = text
        yield text[len(shown) :]

    def tokens(self, prompt):
        """Yields token ids until the end token, which is left out, or until the length is full."""
        x = self.task.preprocessor.generate_preprocess([prompt], sequence_length=self.length)
        at = int(np.sum(x["padding_mask"]))
        ids = tf.constant(np.asarray(x["token_ids"], "int32"))
        logits, _, cache = self._run(ids, tf.zeros(self.shape), tf.constant(0))
        logits = logits[:, at - 1]
        while at < self.length:
            token = self._drawn(np.asarray(logits)[0])
            if token == self.task.preprocessor.tokenizer.end_token_id:
                return
            yield token
            logits, _, cache = self._run(tf.constant([[token]]), cache, tf.constant(at))
            logits, at = logits[:, -1], at + 1

    def prepare(self):
        """Compiles the two calls of an answer, for the prompt and for the tokens after it."""
        list(self.tokens("Hello\n"))
        self._run(tf.constant([[0]]), tf.zeros(self.shape), tf.constant(0))

    def _drawn(self, logits):
        if self.temperature == 0:
            return int(np.argmax(logits))
        noise = self.draw.gumbel(size=logits.shape)
        return int(np.argmax(logits / self.temperature + noise))


def chat(task, temperature):
    """Holds a conversation in the terminal until an empty line or the end of the input."""
    speaker = Speaker(task, temperature)
    speaker.prepare()
    show = functools.partial(print, end="", flush=True)
    print("Ask a question. An empty line ends the conversation.")
    while question := ask():
        _, first, whole = answer(speaker, question + "\n", show)
        print(f"\n  [{1e3 * first:.0f} ms to the first token, {1e3 * whole:.0f} ms in all]")


def answer(speaker, prompt, show=lambda piece: None):
    """Returns `(text, seconds to the first piece, seconds in all)`.

    The function `show` gets each piece as soon as the model has written it.
    """
    started, first, said = time.perf_counter(), None, ""
    for piece in speaker.pieces(prompt):
        first = first or time.perf_counter() - started
        said += piece
        show(piece)
    whole = time.perf_counter() - started
    return said, first or whole, whole


def ask():
    try:
        return input("> ").strip()
    except EOFError:
        return ""


"""
## The table

The table has these columns:

- the perplexity of the answers in the test split;
- the forward KL from the teacher on the same tokens;
- distinct-1 and distinct-2, the share of different words and of different pairs of words in sampled
  answers;
- the milliseconds to the first token and to the end of an answer, as in the conversation;
- the milliseconds for a token when the model answers one prompt with the longest cache that it
  allows;
- the memory of the weights and of a full cache.
"""


def measured(task, teacher, run):
    prompts, answers = run.splits["test"]
    rows = completion_only(task, prompts, answers)
    batches = tf.data.Dataset.from_tensor_slices(rows).batch(BATCH)
    loss, divergence, tokens = 0.0, 0.0, 0.0
    for x, y, weight in batches:
        weight = tf.cast(weight, "float32")
        ours, theirs = (tf.nn.log_softmax(model(x, training=False)) for model in (task, teacher))
        taken = tf.gather(ours, y, batch_dims=2)
        loss -= float(tf.reduce_sum(taken * weight))
        gap = tf.reduce_sum(tf.exp(theirs) * (theirs - ours), -1)
        divergence += float(tf.reduce_sum(gap * weight))
        tokens += float(tf.reduce_sum(weight))
    speaker = Speaker(task)
    speaker.prepare()
    asked = evenly(prompts, 1 if run.given.tiny else 40)
    said, first, whole = zip(*(answer(speaker, prompt) for prompt in asked), strict=True)
    words = " ".join(said).split()
    return {
        "perplexity": float(np.exp(loss / tokens)), "KL to the teacher": divergence / tokens,
        "distinct-1": distinct(words, 1), "distinct-2": distinct(words, 2),
        "ms to the first": 1e3 * float(np.median(first)),
        "ms to the end": 1e3 * float(np.median(whole)),
        "ms a token": 1e3 * seconds_a_token(task, prompts[0], runs=0 if run.given.tiny else 5),
        "parameters": task.count_params(), "MB of weights": 4e-6 * task.count_params(),
        "MB of cache": 4e-6 * float(np.prod(speaker.shape)),
    }  # fmt: skip


def evenly(prompts, count):
    """Returns `count` evenly spaced prompts, since the dialogues come before the dictionary."""
    return prompts[:: max(1, len(prompts) // count)][:count]


def distinct(words, n):
    """Returns the share of different n-grams."""
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return len({*grams}) / max(1, len(grams))


def seconds_a_token(task, prompt, runs):
    """Returns the median seconds for a token over `runs` answers.

    Each answer is as long as the model allows. One answer before them compiles the model and is not
    counted. With `runs=0` only that answer is timed.
    """
    x, times = task.preprocessor.generate_preprocess([prompt]), []
    count = max(1, x["padding_mask"].shape[1] - int(np.sum(x["padding_mask"])))
    for _ in range(runs + 1):
        started = time.perf_counter()
        task.generate([prompt], stop_token_ids=None)
        times.append((time.perf_counter() - started) / count)
    return float(np.median(times[1:] or times))


def samples(task, prompts):
    speaker = Speaker(task, temperature=0)
    return ["".join(speaker.pieces(prompt)) for prompt in prompts]


def arguments(given=None):
    parser = argparse.ArgumentParser(description="Distills a chatbot to a third of its layers.")
    data.add_arguments(parser, text="question", label="answer")
    parser.add_argument("--out", default="runs/chatbot", type=pathlib.Path,
                        help="the folder of the results")  # fmt: skip
    parser.add_argument("--chat", nargs="?", const="on-policy", choices=["teacher", *STUDENTS],
                        help="talk to this trained model")  # fmt: skip
    parser.add_argument("--temperature", default=0.5, type=float, help="for the conversation")
    parser.add_argument("--tokens", default=4000, type=int, help="the most tokens of the tokenizer")
    parser.add_argument("--length", default=64, type=int, help="tokens of a prompt with its answer")
    parser.add_argument("--width", default=192, type=int, help="the hidden size")
    parser.add_argument("--depth", default=6, type=int, help="the teacher's layers")
    parser.add_argument("--repeat", default=4, type=int,
                        help="how often an epoch repeats each dialogue")  # fmt: skip
    parser.add_argument("--limit", type=int, help="use only the first pairs of each split")
    parser.add_argument("--pretrain-epochs", default=5, type=int,
                        help="the teacher's epochs on the dictionary")  # fmt: skip
    parser.add_argument("--teacher-epochs", default=4, type=int,
                        help="the teacher's epochs on the answers")  # fmt: skip
    parser.add_argument("--epochs", default=1, type=int, help="the epochs of each student")
    parser.add_argument("--seeds", default=1, type=int, help="how many seeds of each student")
    parser.add_argument("--rate", default=1e-3, type=float, help="the teacher's learning rate")
    parser.add_argument("--alpha", default=0.5, type=float, help="the teacher's share of the loss")
    parser.add_argument("--students", nargs="+", default=list(STUDENTS), choices=list(STUDENTS),
                        help="the students to train")  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="a tiny model, one epoch")
    given = parser.parse_args(given)
    if given.tiny:
        given.length, given.tokens = min(given.length, 24), 300
    return given


def main(given=None):
    given = arguments(given)
    if given.chat:
        key = given.chat if given.chat == "teacher" else f"{given.chat}-0"  # its first seed
        return chat(RunFolder(given.out).model(key), given.temperature)
    run = Run(given)
    runner = run.runner()
    runner.run(resume=True, title=f"{len(run.prompts):,} pairs, test split", digits=3)
    asked = evenly(run.splits["test"][0], 1 if given.tiny else 12)
    said = {name: samples(runner.model(name, 0), asked) for name in ("teacher", *given.students)}
    for prompt, *answers in zip(asked, *said.values(), strict=True):
        print(prompt.strip())
        print("\n".join(f"  {name}: {text}" for name, text in zip(said, answers, strict=True)))
    (given.out / "said.json").write_text(json.dumps({"asked": asked, "said": said}, indent=1))


if __name__ == "__main__":
    main()
