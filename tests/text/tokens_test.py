"""What two tokenizers share."""

import numpy as np
import pytest

from keras_distill.text import tokens


class Tokenizer:
    """The least that a tokenizer must have."""

    def __init__(self, vocabulary, **others):
        self.vocabulary = vocabulary
        vars(self).update(others)

    def get_vocabulary(self):
        return list(reversed(self.vocabulary))  # in any order

    def token_to_id(self, token):
        return self.vocabulary.index(token)


BYTES = Tokenizer(["<|end|>", "Ġthe", "Ġun", "fold", "ed", "Ã©", "!"], merges=[],
                  end_token="<|end|>", start_token="<|end|>")  # fmt: skip
WORDS = Tokenizer(["[SEP]", "[UNK]", "the", "##ed", "unfold", "!"], suffix_indicator="##",
                  sep_token="[SEP]", unk_token="[UNK]")  # fmt: skip
PIECES = Tokenizer(["</s>", "\u2581the", "\u2581", "un", "folded", "<0x21>"], end_token="</s>")


def test_texts_of_three_kinds():
    found = tokens.texts(BYTES)
    assert found[1] == b" the" and found[5] == "é".encode() and found[3] == b"fold"
    assert [tokens.texts(WORDS)[i] for i in (2, 3)] == [b" the", b"ed"]
    assert [tokens.texts(PIECES)[i] for i in (1, 4, 5)] == [b" the", b"folded", b"!"]
    assert found[0] == tokens.texts(WORDS)[0] == tokens.texts(PIECES)[0]  # the end


def test_shared_tokens_in_the_students_order():
    assert tokens.shared(BYTES, WORDS) == ([0, 1, 4], [0, 2, 3])  # " !" is another than "!"
    assert tokens.shared(PIECES, BYTES) == ([0, 1, 5], [0, 1, 6])


def test_what_is_no_tokenizer():
    with pytest.raises(TypeError, match="get_vocabulary"):
        tokens.texts("bert")


def spans_by_hand(ours, theirs):
    """Walks both texts letter by letter; a span ends where both sides end a piece."""
    ends = [set(np.cumsum([len(p) for p in side])) for side in (ours, theirs)]
    borders = sorted(ends[0] & ends[1])
    return [
        [1 + next(i for i, end in enumerate(borders) if np.cumsum([len(p) for p in side])[k] <= end)
         for k in range(len(side))]
        for side in (ours, theirs)
    ]  # fmt: skip


def test_spans_of_one_text():
    ours, theirs = [b"the", b"un", b"fold", b"ed", b"!"], [b"the", b"unfold", b"ed", b"!"]
    assert tokens.aligned(ours, theirs) == [[1, 2, 2, 3, 4], [1, 2, 3, 4]]
    ours, theirs = [b"ab", b"cd", b"ef", b"g"], [b"a", b"bc", b"def", b"g"]
    assert tokens.aligned(ours, theirs) == spans_by_hand(ours, theirs) == [[1] * 3 + [2]] * 2


def test_what_has_no_partner():
    assert tokens.aligned([b"ab", b"", b"cd"], [b"ab"]) == [[1, 0, 0], [1]]
    assert tokens.aligned([b"a", b"bcd"], [b"a", b"bc"]) == [[1, 0], [1, 0]]  # cut at the end
    found = tokens.aligned([b"the", b"\xfc", b"sat"], [b"the", b"cat", b"sat"])  # unknown
    assert found == [[1, 0, 2], [1, 0, 2]]
    assert tokens.aligned([b"x"], [b"y"]) == [[0], [0]]


def test_alignment_leaves_out_masked_tokens_case_and_space():
    align = tokens.Alignment(BYTES, WORDS)
    ours = np.array([[1, 2, 3, 4, 6, 0], [1, 0, 0, 0, 0, 0]])  # " the unfolded!" and an end
    theirs = np.array([[2, 4, 3, 5, 0], [2, 0, 0, 0, 0]])
    mask = np.array([[0, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])
    found = align(ours, mask, theirs, np.array([[0, 1, 1, 1, 1], [1, 1, 0, 0, 0]]))
    assert found[0].tolist() == [[0, 1, 1, 2, 3, 4], [1, 2, 0, 0, 0, 0]]
    assert found[1].tolist() == [[0, 1, 2, 3, 4], [1, 2, 0, 0, 0]]
