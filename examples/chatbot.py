"""
# A chatbot, and its answers from a third of the layers

A byte-pair tokenizer and a GPT-2-style teacher are trained on dialogues and on a dictionary of
computing: first on the entries as they are, then on answers, a meaning being the answer to "What is
X?". Students with its first and last layer are cut from it and trained in all the ways that distill
a language model:

- on the answers alone, as a student without a teacher is;
- token by token: forward KL, reverse KL, the generalized Jensen-Shannon divergence, skewed KL;
- by sequence: on answers that the teacher wrote;
- on policy: half of the batches are the student's own answers, scored by the teacher.

In all of them the prompt counts for nothing: what is learned is to answer.

    python examples/chatbot.py --data=DIR --out=runs/chatbot
    python examples/chatbot.py --chat --out=runs/chatbot

`DIR` holds `dialogue.tsv` (columns split, question, answer) and, if it is there, `text.txt`, the
dictionary FOLDOC. Other pairs: `--tsv=FILE` or `--tfds=NAME`, with `--text=` and `--label=` for the
columns of questions and answers.

`--tiny --limit=64` tries it out in under a minute: its numbers and its answers mean nothing. A
killed run goes on from the end of the last epoch when the same command is given again. `--chat` is
a conversation in the terminal with a trained student; each question is answered for itself.
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

KerasHub's GPT-2 with sizes of our own. It is trained as it would be without this package, except
that `completion_only` makes the batches: tokens of question and answer, weighed on the answer.
Before that it learns the language, from the dictionary's entries one after another.
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

Each starts from the same cut of the teacher, with its weights, so that they differ only in what
they are taught. A token-level student learns from the answers in the data as much as from the
teacher. Sequence-level distillation needs no teacher while it trains: the data are the teacher's
words. On policy there are no labels: what the student itself has said is not right by definition.
"""

TOKEN_LEVEL = {
    "forward KL": losses.KLDivergence(temperature=1.0),
    "reverse KL": losses.ReverseKL(),
    "Jensen-Shannon": losses.JensenShannon(mix=0.5),
    "skewed KL": losses.SkewedKL(mix=0.1),
}
STUDENTS = ("alone", *TOKEN_LEVEL, "sequence-level", "on-policy")


class Run:
    """The arms of one run, each of which is trained once."""

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
            arms[name] = Arm(functools.partial(self.student, name), measure, once=True)
        return Runner(arms, seeds=1, folder=self.given.out, settings=settings(self.given),
                      load=loader(self.given))  # fmt: skip

    def teacher(self, seed, model_of):
        task = model_of("pretrained")
        keras.utils.set_random_seed(0)
        said = completion_only(task, self.prompts, self.answers)
        return self.fit(Distiller(task), said, "teacher", self.given.teacher_epochs,
                        self.given.rate)  # fmt: skip

    def pretrained(self, seed, model_of):
        """The teacher before it has answered anything."""
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
        keras.utils.set_random_seed(1)
        student = models.shrink(teacher, depth=2, name="student")
        student.run_eagerly = self.given.tiny
        distiller, batches = self.lesson(name, student, teacher)
        return self.fit(distiller, batches, name, self.given.epochs, self.given.rate / 2)

    def lesson(self, name, student, teacher):
        """`(distiller, batches)`: how the student `name` is taught, and on what."""
        if name == "on-policy":
            terms = [Term(TOKEN_LEVEL["Jensen-Shannon"], name="teacher")]
            own = OnPolicy(student, self.prompts, self.answers, share=0.5, batch_size=BATCH)
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
        """The teacher's answers to every different question in the training data, drawn as it would
        say them: its likeliest answers are few, and a student of these learns to repeat them."""
        prompts = list(dict.fromkeys(self.prompts))
        file = self.given.out / "answers.jsonl"
        return generate(teacher, prompts, file, temperature=1.0, batch_size=64)

    def fit(self, distiller, batches, name, epochs, rate, valid=None):
        """Trains a model. On policy the tokens a second are those of people's answers, since how
        long the student's will be is not known."""
        task, counted = distiller.student, batches
        if isinstance(batches, tuple):
            batches = by_length(batches, seed=1)
        else:
            counted = completion_only(task, self.prompts, self.answers)
        valid = valid or completion_only(task, *self.splits["valid"])
        return fit(distiller, batches, self.given.out / "backups" / name, valid=valid,
                   epochs=epochs, rate=rate, tokens=tokens_of(counted[0]),
                   tiny=self.given.tiny)  # fmt: skip


"""
## Streaming

KerasHub's `generate` returns whole texts. To show each token when it is there, the same pieces are
used one by one: the prompt fills the cache of keys and values, then each step reads one token.
"""


class Speaker:
    """Answers a prompt piece by piece.

    Args:
        task: the model.
        temperature: divides the logits; 0 takes the likeliest token.
        seed: of the draws.
    """

    def __init__(self, task, temperature=0.7, seed=0):
        self.task, self.temperature = task, temperature
        self.length = task.preprocessor.sequence_length
        self.draw = np.random.default_rng(seed)
        backbone = task.backbone
        self.shape = (1, backbone.num_layers, 2, self.length, backbone.num_heads,
                      backbone.hidden_dim // backbone.num_heads)  # fmt: skip
        run = task.call_with_cache
        self._run = run if task.run_eagerly else tf.function(run)  # one trace a length

    def pieces(self, prompt):
        """Yields the text of an answer as it is made."""
        tokenizer = self.task.preprocessor.tokenizer
        said, shown, text = [], "", ""
        for token in self.tokens(prompt):
            said.append(token)
            text = tokenizer.detokenize(said)
            if not text.endswith("\ufffd"):  # a letter of several bytes is not whole yet
                yield text[len(shown) :]
                shown = text
        yield text[len(shown) :]

    def tokens(self, prompt):
        """Yields ids until the end token, which is left out, or until the length is full."""
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
        """Compiles what answers: for a prompt, and for the tokens after it."""
        list(self.tokens("Hello\n"))
        self._run(tf.constant([[0]]), tf.zeros(self.shape), tf.constant(0))

    def _drawn(self, logits):
        if self.temperature == 0:
            return int(np.argmax(logits))
        noise = self.draw.gumbel(size=logits.shape)
        return int(np.argmax(logits / self.temperature + noise))


def chat(task, temperature):
    """A conversation in the terminal, until an empty line or the end of the input."""
    speaker = Speaker(task, temperature)
    speaker.prepare()
    show = functools.partial(print, end="", flush=True)
    print("Ask something; an empty line ends it.")
    while question := ask():
        _, first, whole = answer(speaker, question + "\n", show)
        print(f"\n  [{1e3 * first:.0f} ms to the first token, {1e3 * whole:.0f} ms in all]")


def answer(speaker, prompt, show=lambda piece: None):
    """`(text, seconds to its first piece, seconds in all)`; `show` takes each piece at once."""
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

Perplexity of the answers in the test split; the forward KL from the teacher on the same tokens;
distinct-1 and -2, the share of different words and pairs of words in sampled answers; milliseconds
to an answer's first token and to its end, as in the conversation; milliseconds a token when one
prompt is answered with the cache as long as the model allows; memory of the weights and of a full
cache.
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
    """Some of the prompts, evenly: the dialogues come first, then the dictionary."""
    return prompts[:: max(1, len(prompts) // count)][:count]


def distinct(words, n):
    """The share of different n-grams."""
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return len({*grams}) / max(1, len(grams))


def seconds_a_token(task, prompt, runs):
    """The median of so many answers, each as long as the model allows, after one that compiles;
    with `runs=0` that one's time."""
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
    parser = argparse.ArgumentParser(description="A chatbot with a third of its layers.")
    data.add_arguments(parser, text="question", label="answer")
    parser.add_argument("--out", default="runs/chatbot", type=pathlib.Path)
    parser.add_argument("--chat", nargs="?", const="on-policy", choices=["teacher", *STUDENTS],
                        help="talk to a trained model")  # fmt: skip
    parser.add_argument("--temperature", default=0.5, type=float, help="of the conversation")
    parser.add_argument("--tokens", default=4000, type=int, help="the tokenizer's, at most")
    parser.add_argument("--length", default=64, type=int, help="tokens of a prompt and its answer")
    parser.add_argument("--width", default=192, type=int, help="the hidden size")
    parser.add_argument("--depth", default=6, type=int, help="the teacher's layers")
    parser.add_argument("--repeat", default=4, type=int, help="how often an epoch has a dialogue")
    parser.add_argument("--limit", type=int, help="only the first pairs of each split")
    parser.add_argument("--pretrain-epochs", default=5, type=int, help="on the dictionary")
    parser.add_argument("--teacher-epochs", default=4, type=int)
    parser.add_argument("--epochs", default=1, type=int, help="of every student")
    parser.add_argument("--rate", default=1e-3, type=float, help="the teacher's learning rate")
    parser.add_argument("--alpha", default=0.5, type=float, help="the teacher's share of the loss")
    parser.add_argument("--students", nargs="+", default=list(STUDENTS), choices=list(STUDENTS))
    parser.add_argument("--tiny", action="store_true", help="16 numbers wide, one epoch")
    given = parser.parse_args(given)
    if given.tiny:
        given.length, given.tokens = min(given.length, 24), 300
    return given


def main(given=None):
    given = arguments(given)
    if given.chat:
        return chat(RunFolder(given.out).model(given.chat), given.temperature)
    run = Run(given)
    runner = run.runner()
    runner.run(resume=True, title=f"{len(run.prompts):,} pairs, test split", digits=3)
    asked = evenly(run.splits["test"][0], 1 if given.tiny else 12)
    said = {name: samples(runner.model(name), asked) for name in ("teacher", *given.students)}
    for prompt, *answers in zip(asked, *said.values(), strict=True):
        print(prompt.strip())
        print("\n".join(f"  {name}: {text}" for name, text in zip(said, answers, strict=True)))
    (given.out / "said.json").write_text(json.dumps({"asked": asked, "said": said}, indent=1))


if __name__ == "__main__":
    main()
