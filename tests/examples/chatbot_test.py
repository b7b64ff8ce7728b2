"""The chatbot's example runs whole at its smallest, and converses."""

import json

import keras
import pytest

DICTIONARY = """
00-database-info
   This is about the dictionary.

bit

   <unit> A {binary} digit, the smallest unit of data.

   Another paragraph.

byte
octet

   <unit> Eight {bits}, which are
   kept together.

nibble

   {half a byte}
"""


def test_a_dictionary_answers_questions(example):
    entries = dict(example("conversation").entries(DICTIONARY))
    assert entries == {
        "bit": ["A binary digit, the smallest unit of data.", "Another paragraph."],
        "byte": ["Eight bits, which are kept together."],
    }


def test_a_term_has_its_question_and_its_whole_entry_in_one_split(example, tmp_path):
    conversation = example("conversation")
    (tmp_path / "text.txt").write_text(DICTIONARY)
    rows = [f"{split}\tHello\tHi" for split in ("train", "valid", "test")]
    (tmp_path / "dialogue.tsv").write_text("\n".join(["split\tquestion\tanswer", *rows]) + "\n")
    given = example("chatbot").arguments([f"--data={tmp_path}"])
    splits = conversation.pairs(given)
    assert sum(len(questions) for questions, _ in splits.values()) == given.repeat + 2 + 2
    for split, (questions, answers) in splits.items():
        whole = {text.splitlines()[0]: text for text in conversation.texts(given, split)}
        asked = [question.strip() for question in questions if question.startswith("What")]
        assert [*whole] == asked
        for question, answer in zip(asked, answers[-len(asked) :], strict=False):
            assert whole[question].splitlines()[1] == answer
    bit = next(
        text for split in splits for text in conversation.texts(given, split) if "bit?" in text
    )
    assert bit.endswith("data.\nAnother paragraph.")


def test_a_tokenizer_spells_everything_and_ends_with_its_end(example):
    tokenizer = example("conversation").tokenizer(["the cat sat on the mat\n"] * 5, 262)
    ids = tokenizer(["the cat é\n"])[0]
    assert tokenizer.detokenize(ids) == "the cat é\n" and len(ids) < len("the cat é\n")
    assert tokenizer.vocabulary_size() == 262 and tokenizer.end_token_id == 261


def test_a_tiny_run_that_goes_on_and_converses(
    example, eagerly, tmp_path, capsys, monkeypatch
):
    rows = ["split\tquestion\tanswer"]
    for split, count in (("train", 16), ("valid", 2), ("test", 2)):
        rows += [f"{split}\tWhat is {n}?\tIt is a number." for n in range(count)]
    (tmp_path / "pairs.tsv").write_text("\n".join(rows) + "\n")
    chatbot = example("chatbot")
    names = ["reverse KL", "sequence-level", "on-policy"]
    flags = [
        "--tiny",
        "--length=16",
        f"--out={tmp_path}",
        f"--tsv={tmp_path / 'pairs.tsv'}",
        "--students",
    ]
    chatbot.main([*flags, *names])
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "results.json").read_text())["arms"]
    assert [*found] == ["teacher", *names]
    assert found["teacher"][0]["KL to the teacher"] == pytest.approx(0, abs=1e-5)
    assert all(row["perplexity"] > 1 for (row,) in found.values())
    said = json.loads((tmp_path / "said.json").read_text())
    assert [*said["said"]] == ["teacher", *names] and len(said["asked"]) == 1
    assert "| on-policy |" in printed and "tokens_a_second" in printed
    monkeypatch.setattr(chatbot, "fit", None)  # nothing is trained again
    chatbot.main([*flags, "on-policy"])
    questions = iter(["What is 1?", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(questions))
    capsys.readouterr()
    chatbot.main(["--chat=on-policy", f"--out={tmp_path}"])
    assert "ms to the first token" in capsys.readouterr().out


def test_a_streamed_answer_is_the_generated_one(example):
    conversation, chatbot = example("conversation"), example("chatbot")
    given = chatbot.arguments(["--tiny", "--tsv=unused"])
    keras.utils.set_random_seed(0)
    task = chatbot.language_model(given, conversation.tokenizer(["ab cd é"] * 3, 262))
    task.compile(sampler="greedy", run_eagerly=True)
    expected = task.generate("ab\n", strip_prompt=True)
    assert "".join(chatbot.Speaker(task, temperature=0).pieces("ab\n")) == expected
