"""Finds what the tokens of two tokenizers have in common: their text, and the spans they cover."""

import difflib
import itertools

import numpy as np

# The argument of KerasHub's preprocessors for the number of tokens.
LENGTHS = ("sequence_length", "encoder_sequence_length", "decoder_sequence_length")

# Special tokens get a byte that no text in UTF-8 holds.
ROLES = {
    b"\xf8": ("end_token", "sep_token"),
    b"\xf9": ("start_token", "cls_token"),
    b"\xfa": ("pad_token",),
    b"\xfb": ("mask_token",),
    b"\xfc": ("unk_token", "oov_token"),
}


def texts(tokenizer):
    """Returns `{id: text}` of all tokens, bytes in UTF-8 with a space where a word starts.

    The text of a special token is that of its role, whatever its name in the tokenizer. One calls
    the end of a sentence `[SEP]`, another `<|endoftext|>`. If a token has several roles, the first
    one in `ROLES` counts.

    Args:
        tokenizer: a KerasHub tokenizer (byte pairs, word pieces, SentencePiece), or any object
            with `get_vocabulary()` and `token_to_id(token)`.

    Raises:
        TypeError: if the object lacks these methods.
    """
    missing = [n for n in ("get_vocabulary", "token_to_id") if not hasattr(tokenizer, n)]
    if missing:
        raise TypeError(
            f"A tokenizer must have `get_vocabulary()` and `token_to_id(token)`. "
            f"Received: {tokenizer!r}, which lacks {missing}"
        )
    read, special = _reader(tokenizer), _special(tokenizer)
    return {
        int(tokenizer.token_to_id(token)): special.get(token) or read(token)
        for token in tokenizer.get_vocabulary()
    }


def shared(student, teacher):
    """Returns the ids of the tokens that both tokenizers have, in the student's order."""
    ours, theirs = texts(student), texts(teacher)
    partner = {text: index for index, text in sorted(theirs.items(), reverse=True)}
    pairs = [(index, partner.pop(text)) for index, text in sorted(ours.items()) if text in partner]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _special(tokenizer):
    found = {}
    for role, names in ROLES.items():
        for name in names:
            found.setdefault(getattr(tokenizer, name, None), role)
    return found


def _reader(tokenizer):
    """Returns a function from a token to its text, by the marks of words in the tokenizer."""
    if getattr(tokenizer, "merges", None) is not None:
        known = _bytes_of_characters()
        return lambda token: b"".join(known.get(c) or c.encode() for c in token)
    suffix = getattr(tokenizer, "suffix_indicator", None)
    if suffix:
        return lambda token: _word_piece(token, suffix)
    return _sentence_piece


def _word_piece(token, suffix):
    token = token[len(suffix) :] if token.startswith(suffix) else f" {token}"
    return token.encode()


def _sentence_piece(token):
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()


def _bytes_of_characters():
    """Returns the byte for each character of a byte-level vocabulary, as in GPT-2."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    characters = {chr(byte): byte for byte in shown}
    characters.update({chr(256 + place): byte for place, byte in enumerate(hidden)})
    return {character: bytes([byte]) for character, byte in characters.items()}


class Alignment:
    """Numbers the spans of text that the tokens of two tokenizers both cover.

    A span is the shortest piece of text that starts and ends at a border of tokens on both sides.
    It is one token on each side if both cut alike, else several. Case and white space do not count,
    since some tokenizers keep neither. Tokens have no partner if the texts themselves differ (an
    unknown word, a cut at the end).

    Args:
        student, teacher: tokenizers, as `texts` takes them.
    """

    def __init__(self, student, teacher):
        self.texts = [_bare(texts(tokenizer)) for tokenizer in (student, teacher)]

    def __call__(self, student_ids, student_mask, teacher_ids, teacher_mask):
        """Returns the number of each token's span, or 0 without one, in the shapes of both ids.

        Args:
            student_ids, teacher_ids: (batch, tokens).
            student_mask, teacher_mask: of the same shapes. A token with 0 has no span.
        """
        sides = [(student_ids, student_mask), (teacher_ids, teacher_mask)]
        spans = [np.zeros(np.shape(ids), "int32") for ids, _ in sides]
        for row in range(len(student_ids)):
            kept = [np.flatnonzero(mask[row]) for _, mask in sides]
            pieces = [
                [known.get(int(token), b"") for token in ids[row][places]]
                for known, (ids, _), places in zip(self.texts, sides, kept)
            ]
            for side, places, numbers in zip(spans, kept, aligned(*pieces)):
                side[row, places] = numbers
        return spans


def _bare(known):
    return {index: b"".join(text.lower().split()) for index, text in known.items()}


def aligned(ours, theirs):
    """Returns the span of each piece of text on both sides: two lists of numbers from 1, or 0."""
    ends = [[0, *itertools.accumulate(map(len, pieces))] for pieces in (ours, theirs)]
    numbers = [[0] * len(ours), [0] * len(theirs)]
    count = 0
    for starts, size in _common(b"".join(ours), b"".join(theirs)):
        borders = [{end - start for end in side} for side, start in zip(ends, starts)]
        cuts = sorted(cut for cut in borders[0] & borders[1] if 0 <= cut <= size)
        for first, last in itertools.pairwise(cuts):
            count += 1
            for side, found, start in zip(ends, numbers, starts):
                _number(found, side, start + first, start + last, count)
    return numbers


def _common(one, other):
    """Returns where two texts agree: pairs of starts, and the length."""
    size = min(len(one), len(other))
    if one[:size] == other[:size]:
        return [((0, 0), size)]
    blocks = difflib.SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
    return [((block.a, block.b), block.size) for block in blocks]


def _number(found, ends, first, last, number):
    """Numbers the pieces between two borders; a piece without text belongs to no span."""
    for place, (start, end) in enumerate(itertools.pairwise(ends)):
        if first <= start < end <= last:
            found[place] = number
