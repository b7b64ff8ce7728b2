"""The summarizer's example runs whole at its smallest, and is not trained twice."""

import json

import keras
import numpy as np
import pytest

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()


@pytest.fixture
def pairs(tmp_path):
    rows = ["split\tlong\tshort"]
    for split, count in (("train", 16), ("valid", 2), ("test", 3)):
        rows += [f"{split}\tIt is number {n}, and more of it.\tnumber {n}" for n in range(count)]
    file = tmp_path / "pairs.tsv"
    file.write_text("\n".join(rows) + "\n")
    return file


def test_the_first_words_and_their_rouge(example):
    summarization = example("summarization")
    text = " ".join(WORDS)
    said = summarization.first_words([text, "one two"])
    assert said == ["alpha beta gamma delta epsilon zeta eta theta", "one two"]
    found = summarization.rouge(said, ["alpha beta x delta", "Two one!"])
    precision, recall = 3 / 8, 3 / 4  # words that both have, in the same order
    both = 2 * precision * recall / (precision + recall)
    assert found["ROUGE-1"] == pytest.approx([both, 1])
    assert found["ROUGE-L"] == pytest.approx([both, 1 / 2])
    pairs = 2 * (1 / 7) * (1 / 3) / (1 / 7 + 1 / 3)  # of words: only "alpha beta"
    assert found["ROUGE-2"] == pytest.approx([pairs, 0])


def test_texts_with_gaps(example):
    summarization = example("summarization")
    texts = summarization.spaced([" ".join(WORDS * 30), "one  two"], 200)
    assert texts[1] == " one two" and len(texts[0].split()) == 200 and texts[0][0] == " "
    gaps = summarization.with_gaps(texts, 0.2)
    assert gaps == summarization.with_gaps(texts, 0.2) and gaps[0][0] == " "
    assert 140 < len(gaps[0].split()) < 180 and {*gaps[0].split()} <= {*WORDS}


def test_a_tiny_run_that_goes_on(example, eagerly, pairs, tmp_path, capsys, monkeypatch):
    summarization = example("summarization")
    flags = ["--tiny", f"--tsv={pairs}", f"--out={tmp_path / 'run'}", "--students"]
    names = ["logits and features", "sequence-level"]
    summarization.main([*flags, *names])
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "run/results.json").read_text())["arms"]
    assert [*found] == ["the first eight words", "teacher", *names]
    said = json.loads((tmp_path / "run/said.json").read_text())
    assert min(said["seconds"].values()) > 0 and "student: 20 words to 4 tokens in" in printed
    assert "| sequence-level |" in printed and "tokens_a_second" in printed
    assert "cross_attention_0" in printed and "encoder_1" in printed and "decoder_0" in printed
    assert [*said["said"][names[1]][0]] == ["text", "expected", "teacher", names[1]]
    monkeypatch.setattr(summarization, "fit", None)  # nothing is trained again
    (tmp_path / "run/results.json").unlink()
    summarization.main([*flags, names[1]])
    again = json.loads((tmp_path / "run/results.json").read_text())["arms"]
    assert again[names[1]] == found[names[1]]


def test_a_student_keeps_the_encoder_and_generates_what_it_computes(example, tmp_path):
    summarization, bart = example("summarization"), example("bart")
    given = summarization.arguments(["--tiny", "--tsv=unused"])
    teacher = summarization.teacher_of(given, [" ab cd é"] * 3)
    draw = np.random.default_rng(0)
    for weight in teacher.weights:
        weight.assign(draw.normal(size=weight.shape))
    student = summarization.student_of(teacher, 1)
    x = keras.tree.map_structure(
        np.array, teacher.preprocessor.generate_preprocess([" ab cd", " é"])
    )
    ours, theirs = (task.backbone(x)["encoder_sequence_output"] for task in (student, teacher))
    np.testing.assert_array_equal(ours, theirs)
    assert student.backbone.decoder_num_layers == 1
    assert student.count_params() < teacher.count_params()
    student.compile(sampler="greedy", run_eagerly=True)
    step = student.generate_step(x)
    written = np.array(step["decoder_token_ids"])
    filled = {**x, "decoder_token_ids": written, "decoder_padding_mask": np.ones_like(written)}
    likeliest = np.argmax(student(filled), -1)
    np.testing.assert_array_equal(written[:, 2:], likeliest[:, 1:-1])  # the prompt has two tokens
    student.save(tmp_path / "student.keras")
    again = keras.saving.load_model(tmp_path / "student.keras", compile=False)
    np.testing.assert_array_equal(again(filled), student(filled))
    with pytest.raises(ValueError, match="at most the 1 blocks of the encoder"):
        bart.Bart(1, 2, vocabulary_size=5, num_heads=1, hidden_dim=2, intermediate_dim=2)
