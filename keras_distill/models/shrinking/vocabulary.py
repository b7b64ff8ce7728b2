"""Chooses the tokens of a smaller vocabulary, and makes the tokenizer for it."""

import collections
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_distill._keras import graph
from keras_distill.models.shrinking.choice import whole
from keras_distill.models.shrinking.sizes import WORDS, words_of
from keras_distill.models.shrinking.word_vectors import config_of, embedding_of, token_inputs
from keras_distill.text.tokens import LENGTHS

BATCH = 256
TEXT = ("string", "object")  # types of strings in TensorFlow and NumPy


def common_tokens(tokenizer: Any, texts: Iterable[str], count: int) -> list[int]:
    """Returns the ids of the most frequent tokens in texts, for `shrink(vocabulary=...)`.

    Special tokens are always kept. A byte-pair tokenizer also keeps the bytes, and the pieces from
    which a token is merged. A word-piece tokenizer also keeps the tokens of one ASCII character
    (`e`, `##e`), which can spell other words.

    Args:
        tokenizer: a KerasHub tokenizer, preprocessor or task.
        texts: a list of strings.
        count: how many ids to return. It returns fewer if the texts have fewer.

    Returns:
        A sorted list of ids.

    Raises:
        ValueError: if `count` is smaller than the number of tokens that must stay.

    Example:

    ```python
    ids = models.common_tokens(teacher, texts, 8)
    student = models.shrink(teacher, every=2, vocabulary=ids)
    ```
    """
    given, tokenizer = tokenizer, tokenizer_of(tokenizer)
    if tokenizer is None:
        raise ValueError(
            f"`{getattr(given, 'name', given)}` has no tokenizer. Give a model with one."
        )
    texts, counts = list(texts), collections.Counter()
    progress = keras.utils.Progbar(len(texts), unit_name="text")
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        counts.update(_flat(tokenizer(batch)))
        progress.add(len(batch))
    pieces = _Pieces(tokenizer)
    kept = set(pieces.always)
    if whole("count", count) < len(kept):
        raise ValueError(f"`count` must be at least {len(kept)}. Received: count={count}")
    for token, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        needed = kept | pieces.of(token)
        if len(needed) <= count:
            kept = needed
    return sorted(kept)


def seen_tokens(model: keras.Model, data: Iterable) -> list[int]:
    """Returns the token ids that occur in data, for `shrink(vocabulary=..., same_ids=True)`.

    Args:
        model: a functional model of token ids. They are the inputs of its one `Embedding` or, in a
            KerasHub model, those whose names end with `token_ids`.
        data: batches `x` or `(x, y)` of its inputs, such as a `tf.data.Dataset`.

    Returns:
        A sorted list of ids.

    Raises:
        ValueError: if the model reads no token ids.

    Example:

    ```python
    tokens = [teacher.preprocessor(texts)]
    student = models.shrink(teacher, vocabulary=models.seen_tokens(teacher, tokens), same_ids=True)
    ```
    """
    size_of(model)
    symbols, seen = token_inputs(model) if graph.is_graph(model) else (), set()
    if not symbols:
        raise ValueError(
            f"`{model.name}` reads no token ids. Give a functional model with an `Embedding` that "
            "reads its inputs, or with inputs whose names end with `token_ids`."
        )
    for batch in data:
        x = batch[0] if isinstance(batch, tuple) else batch
        if any(getattr(each, "dtype", None) in TEXT for each in keras.tree.flatten(x)):
            raise ValueError("`data` must hold token ids. Received: strings.")
        given = graph.given(model, x)
        for symbol in symbols:
            seen.update(np.unique(keras.ops.convert_to_numpy(given[symbol])).astype(int).tolist())
    return sorted(seen)


def kept_tokens(teacher: keras.Model, vocabulary: int | Sequence[int]) -> list[int]:
    """Returns the teacher's ids of the tokens that `shrink(teacher, vocabulary=vocabulary)` keeps.

    Token `i` of the student is token `kept_tokens(...)[i]` of the teacher.
    `losses.ClassSubset(teacher_classes=...)` and the labels of a language model need these ids.

    Args:
        teacher: a backbone or task with `vocabulary_size` in its config, or a functional or
            sequential model with one `Embedding` that reads its inputs.
        vocabulary: a list of ids, or how many of the first tokens to keep.

    Returns:
        A sorted list of ids. If the teacher has a tokenizer, it includes the tokens that must stay
        (see `common_tokens`).

    Raises:
        ValueError: if an id does not exist.

    Example:

    ```python
    ids = models.kept_tokens(teacher, models.common_tokens(teacher, texts, 8))
    losses.ClassSubset(losses.KLDivergence(), teacher_classes=ids)
    ```
    """
    size = size_of(teacher)
    tokenizer = tokenizer_of(teacher)
    pieces = _Pieces(tokenizer)
    if getattr(embedding_of(teacher), "mask_zero", False):
        pieces.always.add(0)
    if np.ndim(vocabulary) == 0:
        count = whole("vocabulary", vocabulary)
        if not len(pieces.always) <= count <= size or not count:
            raise ValueError(
                f"`vocabulary` must be a list of ids or a number in [{len(pieces.always) or 1}, "
                f"{size}]. Received: vocabulary={vocabulary}"
            )
        first = [i for i in range(size) if i not in pieces.always]
        wanted = sorted({*pieces.always, *first[: count - len(pieces.always)]})
    else:
        wanted = sorted({whole("vocabulary", index) for index in vocabulary})
    if not wanted or wanted[0] < 0 or wanted[-1] >= size:
        raise ValueError(
            f"`vocabulary` must hold ids in [0, {size}). Received: "
            f"{f'{wanted[0]} to {wanted[-1]}' if wanted else 'none'}"
        )
    return sorted(set().union(pieces.always, *map(pieces.of, wanted)))


def size_of(model):
    """Returns the number of words that a model knows.

    Raises:
        ValueError: if neither the model's config nor its graph tells.
    """
    words, embedding = words_of(config_of(model)), embedding_of(model)
    if words is None and embedding is None:
        raise ValueError(
            f"`{model.name}` has no vocabulary to cut. Its config has none of "
            f"{', '.join(WORDS)}, and it has no `Embedding` that alone reads its inputs. Leave "
            "`vocabulary` out."
        )
    return embedding.input_dim if words is None else config_of(model)[words]


def tokenizer_of(model):
    """Returns the tokenizer of a task or preprocessor, the tokenizer itself, or `None`."""
    if hasattr(model, "token_to_id"):
        return model
    preprocessor = getattr(model, "preprocessor", None) or model
    return getattr(preprocessor, "tokenizer", None)


def cut_preprocessor(preprocessor, ids):
    """Returns a task's preprocessor with a tokenizer of only the kept tokens.

    Raises:
        ValueError: if the tokenizer cannot be made smaller.
    """
    tokenizer = getattr(preprocessor, "tokenizer", None)
    if tokenizer is None:
        return preprocessor
    config = tokenizer.get_config()
    tokens = [tokenizer.id_to_token(i) for i in ids if i < tokenizer.vocabulary_size()]
    if getattr(tokenizer, "merges", None) is not None:
        config["vocabulary"] = {token: index for index, token in enumerate(tokens)}
        config["merges"] = [
            merge
            for merge in tokenizer.merges
            if {*merge.split(" "), _merged(merge)} <= config["vocabulary"].keys()
        ]
    elif isinstance(getattr(tokenizer, "vocabulary", None), (list, tuple)):
        config["vocabulary"] = tokens
    else:
        raise ValueError(
            f"A `{type(tokenizer).__name__}` cannot be cut to fewer tokens. Give `same_ids=True`, "
            "so that the student reads the ids of the teacher's tokenizer."
        )
    cut = type(tokenizer).from_config(config)
    made = type(preprocessor).from_config({**preprocessor.get_config(), "tokenizer": cut})
    for name in LENGTHS:  # a sequence-to-sequence task's config lacks some of them
        if hasattr(preprocessor, name):
            setattr(made, name, getattr(preprocessor, name))
    return made


class _Pieces:
    """The tokens that a tokenizer must keep, and the pieces of each token."""

    def __init__(self, tokenizer):
        self.always, self.made_of = set(), {}
        if tokenizer is None:
            return
        special = {*tokenizer.special_token_ids, getattr(tokenizer, "pad_token_id", None) or 0}
        unknown = getattr(tokenizer, "oov_token", None)
        if unknown is not None:
            special.add(tokenizer.token_to_id(unknown))
        self.always = {int(i) for i in special}
        for merge in getattr(tokenizer, "merges", None) or ():
            parts = [tokenizer.token_to_id(part) for part in merge.split(" ")]
            self.made_of.setdefault(tokenizer.token_to_id(_merged(merge)), parts)
        mark = getattr(tokenizer, "suffix_indicator", None) or ""
        if self.made_of:  # the bytes
            self.always |= _written(tokenizer, lambda token: len(token) == 1)
        elif mark:  # the characters that spell ASCII words
            self.always |= _written(
                tokenizer, lambda token: token.isascii() and len(token.removeprefix(mark)) == 1
            )

    def of(self, token):
        """Returns the token and all pieces from which it is merged."""
        found, waiting = set(), [token]
        while waiting:
            piece = waiting.pop()
            if piece not in found:
                found.add(piece)
                waiting += self.made_of.get(piece, ())
        return found


def _written(tokenizer, wanted):
    """Returns the ids of the tokens whose text is wanted."""
    return {i for i in range(tokenizer.vocabulary_size()) if wanted(tokenizer.id_to_token(i))}


def _merged(merge):
    return merge.replace(" ", "")


def _flat(tokens):
    """Returns the ids in a tokenizer's output for a batch: ragged, padded or lists."""
    values = tokens.flat_values if hasattr(tokens, "flat_values") else tokens
    if isinstance(values, list):
        return [int(i) for row in values for i in np.ravel(row)]
    return np.ravel(np.asarray(values)).tolist()
