"""The examples of text: their loaders, and each run whole at its smallest."""

import argparse

import keras
import numpy as np
import pytest
import tensorflow as tf

GOOD = ["a fine and moving film", "fine acting", "a warm film", "moving and warm"]
BAD = ["a dull and empty film", "dull acting", "a cold film", "empty and cold"]


@pytest.fixture
def reviews(tmp_path):
    """A table of labelled sentences, split by a column."""
    rows = [("split", "label", "text")]
    for split, count in (("train", 4), ("valid", 1), ("test", 1)):
        for number in range(count):
            rows += [(split, "good", f"{text} {number}") for text in GOOD]
            rows += [(split, "bad", f"{text} {number}") for text in BAD]
    return written(tmp_path / "reviews.tsv", rows)


def written(path, rows):
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def flags(**given):
    names = {"data": None, "tsv": None, "tfds": None}
    return argparse.Namespace(**{**names, **given})


def test_columns_of_a_table(example, reviews):
    data = example("data")
    found = data.columns(flags(tsv=reviews), ["text", "label"], "unused.tsv")
    assert [len(found[split]["text"]) for split in data.SPLITS] == [32, 8, 8]
    assert found == data.columns(flags(data=reviews.parent), ["text", "label"], reviews.name)
    splits, names = data.classified(found, "text", "label")
    assert names == ["bad", "good"] and splits["test"][1].tolist() == [1] * 4 + [0] * 4
    with pytest.raises(ValueError, match=r"no column \['stars'\].*'split', 'label', 'text'"):
        data.columns(flags(tsv=reviews), ["text", "stars"], "")
    with pytest.raises(ValueError, match="Give --data, --tsv or --tfds"):
        data.columns(flags(), ["text"], "")


def test_a_table_without_splits_is_split_by_its_texts(example, tmp_path):
    data = example("data")
    rows = [("text", "label"), *((f"text {i}", str(i % 3)) for i in range(300))]
    found = data.from_tsv(written(tmp_path / "a.tsv", rows), ["text", "label"])
    sizes = {split: len(found[split]["text"]) for split in data.SPLITS}
    assert sum(sizes.values()) == 300 and 200 < sizes["train"] < 280 and min(sizes.values()) > 10
    again = data.from_tsv(written(tmp_path / "b.tsv", [rows[0], *rows[:0:-1]]), ["text", "label"])
    assert {*again["test"]["text"]} == {*found["test"]["text"]}
    few, names = data.classified(found, "text", "label", classes=2, limit=5)
    assert len(names) == 2 and len(few["train"][0]) == 5


def test_a_dataset_whose_test_labels_are_secret(example, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    data = example("data")

    def rows(split):
        labels = [-1] * 10 if split == "test" else [0, 1] * 5
        return [
            {"text": np.bytes_(f"{split} {i}"), "label": np.int64(y)} for i, y in enumerate(labels)
        ]

    class Builder:
        info = argparse.Namespace(splits=("train", "validation", "test"))

    monkeypatch.setattr(tfds, "builder", lambda name: Builder)
    monkeypatch.setattr(tfds, "load", lambda name, split: rows(split))
    monkeypatch.setattr(tfds, "as_numpy", lambda found: found)
    found = data.columns(flags(tfds="glue/sst2"), ["text", "label"], "")
    assert found["test"]["text"] == [f"validation {i}" for i in range(10)]
    assert [len(found[split]["label"]) for split in data.SPLITS] == [9, 1, 10]
    both = sorted(found["train"]["text"] + found["valid"]["text"])
    assert both == [f"train {i}" for i in range(10)]


def test_a_tiny_classifier_is_trained_once(
    example, eagerly, reviews, tmp_path, capsys, monkeypatch
):
    module = example("text_classification")
    given = ["--tiny", f"--tsv={reviews}", f"--out={tmp_path / 'run'}", "--students",
             "2 layers, 8,000 tokens", "convolution"]  # fmt: skip
    module.main(given)
    printed = capsys.readouterr().out
    assert "| teacher" in printed and "| convolution distilled" in printed
    assert "similarity" in printed and "tokens_a_second" in printed
    assert "| 2 layers, 8,000 tokens | " in printed and "a second at 32" in printed
    student = keras.saving.load_model(tmp_path / "run/arms/2_layers_8_000_tokens_distilled-0.keras")
    assert student.predict(GOOD, verbose=0).shape == (4, 2)
    assert (tmp_path / "run/arms/3_layers_distilled-0.keras").exists()  # which it was cut from

    def again(*arguments, **others):
        raise RuntimeError("trained again")

    monkeypatch.setattr(module, "train", again)
    module.main(given)


def test_a_worn_sentence_lacks_words_and_has_others(example):
    worn = example("text_classification").worn
    text = " ".join(f"w{i}" for i in range(1000))
    once, again, other = (
        worn(text, np.array([0, seed]), ["a", "b"]).numpy().decode().split() for seed in (1, 1, 2)
    )
    assert once == again != other and 850 < len(once) < 950
    strange = [word for word in once if word in "ab"]
    assert 100 < len(strange) < 200 and {*strange} == {"a", "b"}
    assert [word for word in text.split() if word in {*once}] == [
        word for word in once if word not in "ab"
    ]
    kept = worn(text, np.array([0, 1]), ["a"], dropped=0.0, replaced=0.0)
    assert kept.numpy().decode() == text


def test_a_student_without_dropout_is_the_same_student(example, reviews, tmp_path):
    module = example("text_classification")
    given = module.arguments(["--tiny", f"--tsv={reviews}", f"--out={tmp_path}"])
    task = module.Run(given).pretrained()
    assert task.backbone.dropout > 0
    student = module.without_dropout(task)
    x = task.preprocessor(GOOD)
    expected = task(x, training=False)
    np.testing.assert_allclose(student(x, training=True), expected, atol=1e-6)
    assert np.abs(task(x, training=True) - expected).max() > 1e-3


def test_students_without_a_teacher_see_worn_sentences_too(example, reviews, tmp_path):
    module = example("text_classification")
    given = module.arguments(["--tiny", f"--tsv={reviews}", f"--out={tmp_path}"])
    run = module.Run(given)
    whole = {text.encode() for text in run.texts}
    worn = [text for x, _ in run.batches("train", 1, wear=True) for text in x.numpy()]
    assert len(worn) == len(whole) and len({*worn} & whole) < len(whole)
    lengths = {len(text.split()) for text in whole}
    assert min(len(text.split()) for text in worn) < min(lengths)
    plain = [text for x, _ in run.batches("train", 1) for text in x.numpy()]
    assert {*plain} == whole


def test_terms_of_students_with_the_teachers_tokens(example, reviews, tmp_path):
    module = example("text_classification")
    given = module.arguments(["--tiny", f"--tsv={reviews}", f"--out={tmp_path}"])
    teacher = module.Run(given).pretrained()
    terms = module.token_terms(module.three_layers(teacher, None), teacher)
    hidden = ["hidden_0", "hidden_1", "hidden_2"]
    assert [term.name for term in terms][-4:] == [*hidden, "minilm_relations"]
    blocks = [term.teacher.rpartition("/")[2] for term in terms[1:4]]
    assert blocks == [f"transformer_layer_{index}" for index in range(3)]
    student = module.two_layers(module.three_layers(teacher), GOOD)
    assert student.backbone.intermediate_dim == 12
    terms = module.token_terms(student, teacher)
    followed = [(term.student[-1], term.teacher[-1]) for term in terms[1:3]]
    assert followed == [("0", "0"), ("1", "2")] and terms[3].name == "minilm_relations"


def test_tiny_embeddings(example, eagerly, tmp_path, capsys):
    module = example("sentence_embeddings")
    rows = [("long", "short"), *((f"a program that draws number {i}", f"{i}") for i in range(150))]
    table = written(tmp_path / "texts.tsv", rows)
    module.main(["--tiny", f"--tsv={table}", f"--out={tmp_path / 'run'}", "--layers", "1", "2"])
    printed = capsys.readouterr().out
    assert "| 2 layers, only cut | " in printed
    assert "recall@10" in printed and "in_batch_ranking" in printed
    assert "texts a second at batch 32" in printed
    student = keras.saving.load_model(tmp_path / "run/arms/2_layers_cosine-0.keras")
    lengths = np.linalg.norm(student.predict({
        "token_ids": np.ones((2, 4), int), "segment_ids": np.zeros((2, 4), int),
        "padding_mask": np.ones((2, 4), int),
    }, verbose=0), axis=1)  # fmt: skip
    np.testing.assert_allclose(lengths, 1, atol=1e-5)


def test_ranks_and_neighbours(example):
    module = example("sentence_embeddings")
    documents = np.eye(3)
    queries = np.array([[1, 0, 0], [1, 0.5, 0], [0.1, 0.9, 0.5]])
    assert module.ranks(queries, documents).tolist() == [0, 1, 1]
    vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]])
    assert module.neighbours(vectors, 1) == [{1}, {0}, {3}, {2}]
    assert module.neighbours(vectors, 10)[0] == {1, 2, 3}  # there are no more


def test_in_batch_ranking_is_a_divergence_of_orders(example):
    loss = example("sentence_embeddings").InBatchRanking(temperature=0.5)
    random = np.random.default_rng(0)
    teacher, student = random.normal(size=(2, 4, 3)).astype("float32")
    expected = []
    for i in range(4):
        others = [j for j in range(4) if j != i]
        logits = [[side[i] @ side[j] / 0.5 for j in others] for side in (teacher, student)]
        p, q = (np.exp(x) / np.exp(x).sum() for x in logits)
        expected.append(np.sum(p * np.log(p / q)))
    np.testing.assert_allclose(loss.call(teacher, student), expected, rtol=1e-4)
    assert float(loss(teacher, teacher)) == pytest.approx(0, abs=1e-6)


def test_settings_are_what_models_are_trained_by(example):
    given = argparse.Namespace(out="run", alpha=0.5, seeds=1, split="test", tiny=True)
    assert example("training").settings(given) == {"alpha": 0.5, "tiny": True}


def test_tokens_are_counted_as_a_model_reads_them(example):
    counted = example("training").count_tokens(lambda texts: [t.split() for t in texts],
                                               ["a b", "a b c d e f"] * 700, 5)  # fmt: skip
    assert counted == 700 * (4 + 5)


class Letters:
    """A tokenizer of letters."""

    end_token_id = 0

    def __call__(self, texts):
        return [np.array([ord(letter) - ord("a") + 1 for letter in text]) for text in texts]


def test_texts_are_packed_into_windows_of_next_tokens(example):
    x, y, weight = example("language").packed(Letters(), ["abc", "d", "efgh"], 4)
    assert x["token_ids"].tolist() == [[0, 1, 2, 3], [0, 4, 0, 5]]  # what is left fills no window
    assert y.tolist() == [[1, 2, 3, 0], [4, 0, 5, 6]]
    assert x["padding_mask"].all() and (weight == 1).all() and weight.shape == y.shape


def test_batches_of_one_length_are_as_wide_as_their_longest(example):
    language = example("language")
    lengths = [3, 5, 9] * 40
    mask = np.arange(12) < np.array(lengths)[:, None]
    ids = np.arange(120)[:, None] * mask
    rows = ({"token_ids": ids, "padding_mask": mask}, ids, mask.astype("float32"))
    batches = language.by_length(rows, seed=3, boundaries=(4, 8))
    found = [(np.array(y), x["padding_mask"].numpy()) for x, y, _ in batches]
    assert len(batches) == len(found) == 6
    assert sorted(y.shape for y, _ in found) == [(8, 3), (8, 5), (8, 9), (32, 3), (32, 5), (32, 9)]
    assert sorted(np.concatenate([y[:, 0] for y, _ in found])) == [*range(120)]
    assert all(shown.all() for _, shown in found)
    first, again = (next(iter(language.by_length(rows, 3, (4, 8))))[1].numpy() for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_kernels_of_narrow_models_are_scaled_up(example):
    keras_hub = pytest.importorskip("keras_hub")
    sizes = dict(vocabulary_size=50, num_layers=1, num_heads=2, hidden_dim=64, intermediate_dim=256,
                 max_sequence_length=8)  # fmt: skip
    backbone = example("language").from_scratch(keras_hub.models.GPT2Backbone(**sizes))
    kernels = [v for v in backbone.trainable_variables if v.path.endswith("kernel")]
    assert len(kernels) == 6
    for kernel in kernels:
        assert 0.06 < np.std(kernel) < 0.09  # 0.02 * sqrt(1024 / 64) = 0.08, cut at two deviations


def test_a_killed_run_goes_on_from_the_last_epoch(example, tmp_path):
    training = example("training")
    from keras_distill import Distiller

    data = tf.data.Dataset.from_tensors((np.ones((8, 2)), np.zeros((8, 1))))
    backup, seen = tmp_path / "backup", []

    class Killed(Distiller):
        killed = True

        def evaluate(self, *args, **kwargs):  # at an epoch's end, before its state is kept
            seen.append(int(self.optimizer.iterations))
            if self.killed and len(seen) == 2:
                raise KeyboardInterrupt
            return super().evaluate(*args, **kwargs)

    def fit(killed):
        distiller = Killed(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
        distiller.killed = killed
        distiller.compile("sgd", "mse")
        return training.train(
            distiller, data, backup, epochs=3, tokens=8, validation_data=data
        )

    with pytest.raises(KeyboardInterrupt):
        fit(True)
    assert backup.exists()
    student, record = fit(False)
    assert seen == [1, 2, 2, 3]  # the second epoch again, then the third
    assert not list(backup.rglob("*.h5")) and isinstance(student, keras.Sequential)
    assert record["history"]["tokens_a_second"]
