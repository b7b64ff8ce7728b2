"""Reads questions with their answers for the chatbot, and trains its tokenizer."""

import itertools
import re

import data
import keras_hub
from language import byte_pairs

END = "<|endoftext|>"


def pairs(given, tail="\n"):
    """Returns `{split: (questions, answers)}` from the options of `data.add_arguments`.

    With `--data`, the folder may also hold a dictionary of computing. Its entries become answers to
    "What is X?". Each question ends with a newline, which tells the model that the answer begins.
    """
    found = data.columns(given, [given.text, given.label], "dialogue.tsv")
    splits = {}
    for split, columns in found.items():
        questions = [*columns[given.text]] * (given.repeat if split == "train" else 1)
        answers = [*columns[given.label]] * (given.repeat if split == "train" else 1)
        splits[split] = questions, answers
    for question, (meaning, *_) in dictionary(given):
        questions, answers = splits[data.hashed_split(question)]
        questions.append(question)
        answers.append(meaning)
    return {split: ([q + tail for q in questions[: given.limit]], answers[: given.limit])
            for split, (questions, answers) in splits.items()}  # fmt: skip


def texts(given, split):
    """Returns the dictionary's entries in a split, from which the model learns the language."""
    found = ("\n".join([question, *paragraphs]) for question, paragraphs in dictionary(given)
             if data.hashed_split(question) == split)  # fmt: skip
    return list(itertools.islice(found, given.limit))


def dictionary(given):
    """Yields `(question, paragraphs of the answer)` from the dictionary, if there is one."""
    file = given.data / "text.txt" if given.data else None
    if file and file.exists():
        for term, paragraphs in entries(file.read_text(encoding="utf-8")):
            yield f"What is {term}?", paragraphs


def entries(text):
    """Yields `(term, the paragraphs of its meaning)` from a dictionary in FOLDOC's layout.

    A term begins its line, and its meaning is indented. If an entry has several terms, the first is
    used. Braces mark links, and angle brackets mark the field. Entries that only refer to another
    entry are left out.
    """
    for entry in re.split(r"\n\n+(?=\S)", text):
        terms, *paragraphs = re.split(r"\n[ \t]*\n", entry.strip("\n"))
        paragraphs = [re.sub(r"<[^<>]*>|[{}]", "", " ".join(each.split())) for each in paragraphs]
        paragraphs = [each.strip() for each in paragraphs]
        if paragraphs and len(paragraphs[0].split()) > 4:
            yield terms.splitlines()[0], paragraphs


def tokenizer(texts, size):
    """Trains a GPT-2 tokenizer of at most `size` tokens, which are the most common in `texts`.

    The tokenizer has a token for each of the 256 bytes, so it can spell every text. The end token
    comes last. The first token is the padding, and if the end token were first, padding would end
    every answer.
    """
    vocabulary, merges = byte_pairs(texts, size - 1)
    vocabulary = {**vocabulary, END: len(vocabulary)}
    return keras_hub.models.GPT2Tokenizer(vocabulary=vocabulary, merges=merges)
