"""Questions with answers for the chatbot, and a tokenizer that is trained on them."""

import itertools
import re

import data
import keras_hub
from language import byte_pairs

END = "<|endoftext|>"


def pairs(given, tail="\n"):
    """`{split: (questions, answers)}` from the flags of `data.add_arguments`.

    Beside the dialogues in the folder `--data`, its dictionary of computing is read, as answers to
    "What is X?". A question ends with a line's end: there the answer begins.
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
    """The dictionary's entries of a split, whole: more to learn the language from."""
    found = ("\n".join([question, *paragraphs]) for question, paragraphs in dictionary(given)
             if data.hashed_split(question) == split)  # fmt: skip
    return list(itertools.islice(found, given.limit))


def dictionary(given):
    """`(question, paragraphs of the answer)` of the dictionary beside the dialogues, if any."""
    file = given.data / "text.txt" if given.data else None
    if file and file.exists():
        for term, paragraphs in entries(file.read_text(encoding="utf-8")):
            yield f"What is {term}?", paragraphs


def entries(text):
    """`(term, the paragraphs of its meaning)` of a dictionary in FOLDOC's layout.

    Terms begin their lines, the first of several is taken; meanings are indented. Braces mark
    links, and angle brackets the field. What only refers to another entry is left out.
    """
    for entry in re.split(r"\n\n+(?=\S)", text):
        terms, *paragraphs = re.split(r"\n[ \t]*\n", entry.strip("\n"))
        paragraphs = [re.sub(r"<[^<>]*>|[{}]", "", " ".join(each.split())) for each in paragraphs]
        paragraphs = [each.strip() for each in paragraphs]
        if paragraphs and len(paragraphs[0].split()) > 4:
            yield terms.splitlines()[0], paragraphs


def tokenizer(texts, size):
    """A byte-pair tokenizer of at most `size` tokens, the commonest in `texts`: GPT-2's kind.

    The 256 bytes are tokens too, so that every text can be spelled. The end token comes last: the
    first token is the padding, and padding that is also an end would stop every answer.
    """
    vocabulary, merges = byte_pairs(texts, size - 1)
    vocabulary = {**vocabulary, END: len(vocabulary)}
    return keras_hub.models.GPT2Tokenizer(vocabulary=vocabulary, merges=merges)
