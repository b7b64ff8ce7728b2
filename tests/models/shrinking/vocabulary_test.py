"""Tasks cut to fewer tokens: the kept rows, and the tokenizer that goes with them."""

import keras
import numpy as np
import pytest

from keras_distill import models

hub = pytest.importorskip("keras_hub")
WORDS = ["the", "cat", "dog", "sat", "##s", "ran", "on", "mat"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZES = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 8}
TEXTS = ["the cat sat", "the dog sat", "the cats ran", "the mat"]


def classifier():
    """A BERT over words."""
    tokenizer = hub.tokenizers.BertTokenizer(vocabulary=[*SPECIAL, *WORDS], lowercase=True)
    return hub.models.BertTextClassifier(
        backbone=hub.models.BertBackbone(vocabulary_size=13, max_sequence_length=8, **SIZES),
        preprocessor=hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=8),
        num_classes=3,
    )


def language_model(merges=("a b", "ab c", "Ġ a", "Ġa b", "d e")):
    """A GPT-2 over bytes of a small alphabet and what they merge to."""
    merged = dict.fromkeys(merge.replace(" ", "") for merge in merges)
    tokens = [*"abcdeĠ", *merged, "<|endoftext|>"]
    tokenizer = hub.tokenizers.GPT2Tokenizer(
        vocabulary={token: index for index, token in enumerate(tokens)}, merges=merges
    )
    return hub.models.GPT2CausalLM(
        backbone=hub.models.GPT2Backbone(
            vocabulary_size=len(tokens), max_sequence_length=8, **SIZES
        ),
        preprocessor=hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=8),
    )


def test_a_preprocessor_with_fewer_words_keeps_its_lengths():
    tokens = [*"abĠ", "ab", "<s>", "<pad>", "</s>", "<mask>"]
    tokenizer = hub.tokenizers.BartTokenizer({t: i for i, t in enumerate(tokens)}, ["a b"])
    preprocessor = hub.models.BartSeq2SeqLMPreprocessor(
        tokenizer, encoder_sequence_length=8, decoder_sequence_length=6
    )
    backbone = hub.models.BartBackbone(len(tokens), max_sequence_length=8, **SIZES)
    teacher = hub.models.BartSeq2SeqLM(backbone, preprocessor)
    student = models.shrink(teacher, vocabulary=[0, 1, 3, 4, 5, 6, 7])
    x = student.preprocessor.generate_preprocess(["ab"])
    lengths = x["encoder_token_ids"].shape, x["decoder_token_ids"].shape
    assert lengths == ((1, 8), (1, 6)) and int(np.sum(x["encoder_padding_mask"])) == 3


def test_common_tokens():
    teacher = classifier()
    ids = models.common_tokens(teacher, TEXTS, 9)
    assert ids == [0, 1, 2, 3, 4, 5, 6, 8, 9]  # special ones, the, cat, sat, ##s
    assert models.common_tokens(teacher.preprocessor.tokenizer, TEXTS, 100)[-1] == 12
    with pytest.raises(ValueError, match="`count` must be at least 6. Received: count=5"):
        models.common_tokens(teacher, TEXTS, 5)


def test_a_classifier_predicts_from_strings_with_fewer_words(tmp_path):
    teacher = classifier()
    student = models.shrink(teacher, vocabulary=[5, 6, 8])
    assert models.kept_tokens(teacher, [5, 6, 8]) == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert student.backbone.vocabulary_size == 9
    known = ["the cat sat"]
    np.testing.assert_allclose(
        student.predict(known, verbose=0), teacher.predict(known, verbose=0), atol=1e-6
    )
    np.testing.assert_allclose(  # what is left out is unknown
        student.predict(["the dog"], verbose=0),
        teacher.predict(["the zebra"], verbose=0),
        atol=1e-6,
    )
    assert teacher.preprocessor.tokenizer.vocabulary_size() == 13
    student.save(tmp_path / "student.keras")
    again = keras.saving.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(
        again.predict(known, verbose=0), student.predict(known, verbose=0)
    )


def test_a_task_cut_in_depth_and_width():
    teacher = classifier()
    student = models.shrink(teacher, depth=1, width=0.5, name="small")
    assert type(student) is type(teacher) and student.name == "small"
    assert (student.backbone.num_layers, student.backbone.hidden_dim) == (1, 4)
    kernels = student.output_dense.kernel, teacher.output_dense.kernel
    np.testing.assert_array_equal(kernels[0], kernels[1][:4])
    assert student.predict(TEXTS, verbose=0).shape == (4, 3)
    whole = models.shrink(teacher, every=1)
    np.testing.assert_array_equal(
        whole.predict(TEXTS, verbose=0), teacher.predict(TEXTS, verbose=0)
    )


def test_a_language_model_keeps_what_its_tokens_are_merged_from():
    teacher = language_model()
    assert models.kept_tokens(teacher, [7]) == [0, 1, 2, 3, 4, 5, 6, 7, 11]  # abc needs ab
    student = models.shrink(teacher, every=2, vocabulary=[7])
    ours, theirs = (m.preprocessor.tokenizer for m in (student, teacher))
    assert list(ours("abcab")) == [7, 6] == list(theirs("abcab"))
    assert list(ours(" abde")) == [5, 6, 3, 4]
    assert ours.end_token_id == 8 and theirs.end_token_id == 11
    assert student.generate("ab", max_length=6).startswith("ab")
    np.testing.assert_array_equal(
        student.backbone.token_embedding.embeddings[8],
        teacher.backbone.token_embedding.embeddings[11],
    )


def test_a_merge_with_a_part_that_is_cut_is_cut_too():
    teacher = language_model(["a b", "b c", "ab c", "a bc"])  # two ways to "abc"
    student = models.shrink(teacher, vocabulary=[8])
    tokenizer = student.preprocessor.tokenizer
    assert [*tokenizer.get_vocabulary()] == [*"abcdeĠ", "ab", "abc", "<|endoftext|>"]
    assert list(tokenizer.merges) == ["a b", "ab c"]
    assert list(tokenizer("abcbc")) == [7, 1, 2]


def test_a_word_that_is_cut_is_spelled():
    letters = ["a", "c", "##a", "##t", "5", ".", "é", "##é"]
    vocabulary = [*SPECIAL, "cat", "##at", *letters]
    preprocessor = hub.models.BertTextClassifierPreprocessor(
        hub.tokenizers.BertTokenizer(vocabulary=vocabulary), sequence_length=8
    )
    backbone = hub.models.BertBackbone(len(vocabulary), max_sequence_length=8, **SIZES)
    teacher = hub.models.BertTextClassifier(backbone, 2, preprocessor)
    student = models.shrink(teacher, vocabulary=[0])
    tokenizer = student.preprocessor.tokenizer
    assert tokenizer.get_vocabulary() == [*SPECIAL, *letters[:6]]  # ASCII
    assert [tokenizer.id_to_token(i) for i in tokenizer("cat 5.")] == ["c", "##a", "##t", "5", "."]
    assert models.common_tokens(teacher, ["cat cat"], 12) == [*range(6), *range(7, 13)]


def test_a_sentence_piece_vocabulary_cannot_be_cut(tmp_path):
    pieces = pytest.importorskip("sentencepiece")
    pieces.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_prefix=str(tmp_path / "words"), vocab_size=20,
        pad_id=0, unk_id=1, bos_id=2, eos_id=3,
        pad_piece="<pad>", unk_piece="<unk>", bos_piece="[CLS]", eos_piece="[SEP]",
        user_defined_symbols="[MASK]", minloglevel=2,
    )  # fmt: skip
    tokenizer = hub.tokenizers.AlbertTokenizer(str(tmp_path / "words.model"))
    backbone = hub.models.AlbertBackbone(20, **SIZES, embedding_dim=4, max_sequence_length=8)
    preprocessor = hub.models.AlbertTextClassifierPreprocessor(tokenizer, sequence_length=8)
    teacher = hub.models.AlbertTextClassifier(backbone, 2, preprocessor)
    with pytest.raises(ValueError, match="`AlbertTokenizer` cannot be cut.*same_ids=True"):
        models.shrink(teacher, vocabulary=10)
    ids = preprocessor(TEXTS)
    seen = models.seen_tokens(teacher, [ids])
    same = models.shrink(teacher, vocabulary=seen, same_ids=True)
    np.testing.assert_allclose(same(ids), teacher(ids), atol=1e-6)
    assert models.shrink(teacher.backbone, vocabulary=10).vocabulary_size == 10


def test_a_backbone_keeps_the_rows_that_are_named():
    teacher = classifier().backbone
    student = models.shrink(teacher, vocabulary=[9, 2])
    rows = student.token_embedding.embeddings, teacher.token_embedding.embeddings
    np.testing.assert_array_equal(rows[0], np.asarray(rows[1])[[2, 9]])
    first = models.shrink(teacher, vocabulary=4).token_embedding.embeddings
    np.testing.assert_array_equal(first, rows[1][:4])


def test_wrong_vocabularies():
    teacher = classifier()
    for wrong in (4, 14, [13], [-1], [0.5]):
        with pytest.raises(ValueError, match="`vocabulary` must"):
            models.shrink(teacher, vocabulary=wrong)
    with pytest.raises(ValueError, match="must hold ids.*none"):
        models.shrink(teacher.backbone, vocabulary=[])
    with pytest.raises(ValueError, match="has no tokenizer"):
        models.common_tokens(teacher.backbone, TEXTS, 5)
