"""Comparisons of every task against plain NumPy, and what is written of them."""

import json
import os
import pathlib

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill import export, report
from keras_distill.report import answering, tasks

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(60, 6)).astype("float32")


def net(width, out, seed=0, activation=None):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(width, "relu"), layers.Dense(out, activation=activation)]
    )


def batches(x, y, size=16):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


@pytest.fixture(scope="module")
def classes():
    """A comparison of two students of two seeds, one of them exported, with awkward names."""
    y = RANDOM.integers(0, 4, 60)
    teacher = net(8, 4, 9)
    students = {"alone": [net(3, 4, 0), net(3, 4, 1)], "distilled": [net(3, 4, 2), net(3, 4, 3)]}
    yield teacher, students, y


@pytest.fixture(scope="module")
def compared(classes, tmp_path_factory):
    teacher, students, y = classes
    folder = tmp_path_factory.mktemp("exported")
    exported, = export.write(students["distilled"][0], folder, name="tiny", inputs=X[:8])
    history = {"loss": [3.0, 2.0, None], "alpha": [0.5, 0.4, 0.3], "one": [1.0, 1.0, 1.0]}
    return report.compare(
        teacher, students, batches(X, y), runs=2, exported=[exported.path],
        classes=["<b>null</b>", "$a_1$ and $b$", "zwei ☃", "x" * 80],
        histories={"alone": [{}], "distilled": [history, history]},
        name="a <i>name</i>", provenance={"command": "python -m x <script>"},
    )  # fmt: skip


def answers(model):
    return keras.ops.convert_to_numpy(model(X)).argmax(-1)


def test_classes_are_judged_by_seeds_and_pairs(classes, compared):
    teacher, students, y = classes
    right = {arm: [answers(m) == y for m in each] for arm, each in students.items()}
    found = compared.results
    for arm, each in right.items():
        assert found["rows"][arm]["value"] == pytest.approx(np.mean(each))
        assert found["rows"][arm]["by_seed"] == pytest.approx([np.mean(r) for r in each])
        assert found["rows"][arm]["low"] < np.mean(each) < found["rows"][arm]["high"]
        agreement = np.mean([answers(m) == answers(teacher) for m in students[arm]])
        assert found["rows"][arm]["likeness"]["agreement"] == pytest.approx(agreement)
        by_class = [np.mean(np.stack(each)[:, y == c]) for c in range(4)]
        assert found["rows"][arm]["classes"]["accuracy"] == pytest.approx(by_class)
    pairs = [*zip(right["distilled"], right["alone"])]
    gap = found["rows"]["distilled"]["difference"]
    assert gap["value"] == pytest.approx(np.mean([a.mean() - b.mean() for a, b in pairs]))
    assert gap["won"] == sum((a & ~b).sum() for a, b in pairs)
    assert gap["lost"] == sum((b & ~a).sum() for a, b in pairs)
    assert gap["p"] == report.mcnemar(gap["won"], gap["lost"])
    assert "difference" not in found["rows"]["alone"] and found["baseline"] == "alone"
    assert "difference" not in found["rows"]["teacher"]


def test_costs_robustness_and_knowledge(classes, compared):
    found = compared.results
    assert found["costs"]["distilled"]["parameters"] == 6 * 3 + 3 + 3 * 4 + 4
    assert found["costs"]["distilled"]["operations"] == 2 * (6 * 3 + 3 * 4)
    assert {*found["costs"]["teacher"]["latency"]} == {"1", "32"}
    worse = found["rows"]["distilled"]["robustness"]
    assert worse["as it is"] == pytest.approx(found["rows"]["distilled"]["by_seed"][0])
    assert len(worse) == 3
    assert np.shape(found["knowledge"]["cka"]["distilled"]["cka"]) == (2, 2)
    shown = found["knowledge"]["soft_targets"]
    assert shown and {*shown[0]["probabilities"]} == {"teacher", "alone", "distilled"}


def test_an_exported_model_is_measured_where_it_runs(compared):
    each, = compared.results["exported"]
    assert (each["format"], each["of"], each["quantize"]) == ("serving", "distilled", "none")
    assert each["quality"]["value"] == each["student"]
    assert each["student"] == compared.results["rows"]["distilled"]["by_seed"][0]
    assert each["to_the_student"]["agreement"] == 1 and each["size_bytes"] > 1000
    assert each["latency"]["32"]["per_second"] > 0


def test_three_files_that_are_never_overwritten(compared, tmp_path):
    paths = compared.write(tmp_path / "new" / "found.html")
    assert sorted(os.listdir(tmp_path / "new")) == ["found.html", "found.json", "found.md"]
    page, text, data = (open(path, encoding="utf-8").read() for path in paths)
    assert json.loads(data)["comparisons"] == [compared.results]
    for awkward in ("<b>null", "<i>name", "<script"):
        assert awkward not in page and awkward not in text
    assert "&lt;script&gt;" in page and "$a_1$ and $b$" in page
    assert "src=" not in page and 'href="http' not in page and "url(http" not in page
    assert "alpha" in page and ">one<" not in page  # a number that stays makes no curve
    assert "| distilled |" in text and "McNemar" in text
    with pytest.raises(FileExistsError, match="never overwrites"):
        compared.write(tmp_path / "new" / "found.html")
    with pytest.raises(ValueError, match="must end in .html"):
        compared.write(tmp_path / "found.txt")
    assert os.listdir(tmp_path) == ["new"]


def test_the_numbers_are_written_even_if_no_plot_can_be_drawn(compared, tmp_path, monkeypatch):
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *a, **k: [][0])
    page, *_ = compared.write(tmp_path / "found.html")
    text = pathlib.Path(page).read_text(encoding="utf-8")
    assert "could not be drawn. list index out of range" in text
    assert "<svg" not in text and compared.headline().split()[0] in text


def test_numbers():
    y = (X @ RANDOM.normal(size=(6, 1))).astype("float32")
    teacher, student = net(8, 1), net(3, 1, 1)
    students = {"student": student, "alone": net(3, 1, 2)}
    found = report.compare(teacher, students, batches(X, y[:, 0]), runs=1).results
    error = y - keras.ops.convert_to_numpy(student(X))
    row = found["rows"]["student"]
    assert found["task"] == "numbers"
    explained = 1 - (error**2).sum() / ((y - y.mean()) ** 2).sum()
    assert row["value"] == pytest.approx(explained, rel=1e-4)
    assert row["measures"]["mean_absolute_error"] == pytest.approx(np.abs(error).mean(), rel=1e-4)
    assert "calibration" not in row and "p" in row["difference"]
    assert "R²" in report.Comparison(found).html()


def test_labels():
    y = RANDOM.integers(0, 2, (60, 3))
    found = report.compare(net(8, 3), {"student": net(3, 3, 1, "sigmoid")}, batches(X, y), runs=1)
    assert found.results["task"] == "labels" and 0 < found.results["rows"]["student"]["value"] < 1
    assert len(found.results["rows"]["student"]["classes"]["count"]) == 3
    assert "F1 %" in found.html()


def test_all_batches_tell_logits_from_probabilities():
    """The last batch has one example, whose logit may lie between 0 and 1 by chance."""
    x = np.array([[2.0], [-3.0], [0.3], [-0.4], [0.6]], "float32")
    itself = {"student": lambda x: x}
    found = report.compare(itself["student"], itself, batches(x, x[:, 0] > 0, 1), runs=1)
    assert found.results["rows"]["student"]["value"] == 1
    both = np.concatenate([x, -x], -1)
    data = batches(both, both > 0, 2)
    found = report.compare(itself["student"], itself, data, task="labels", runs=1)
    assert found.results["rows"]["student"]["value"] == 1


def test_few_examples_take_the_kind_of_outputs_that_all_data_show(tmp_path):
    """The kept examples' logits lie between 0 and 1, the others' do not."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)], name="line")
    model.set_weights([np.ones((1, 1)), np.zeros(1)])
    x = np.array([[0.3], [0.4], [-2.0], [3.0]], "float32")
    file, = export.write(model, tmp_path, inputs=x)
    found = report.compare(model, {"student": model}, batches(x, x[:, 0] > 0, 2), runs=1,
                           examples=2, exported=[file.path]).results  # fmt: skip
    assert found["rows"]["student"]["robustness"]["as it is"] == 1
    each, = found["exported"]
    assert (each["quality"]["value"], each["student"], each["quality"]["examples"]) == (1, 1, 2)


def test_logits_of_several_classes_may_sum_to_one_in_a_batch():
    itself = {"student": lambda x: x}
    x = np.array([[0.4, 0.6], [2, -1], [-3, 4], [0.6, 0.4]], "float32")
    y = np.array([1, 0, 1, 0])
    nll = np.mean(np.log(np.exp(x).sum(-1)) - x[np.arange(4), y])
    for size in (1, 3, 4):
        found = report.compare(itself["student"], itself, batches(x, y, size), runs=1).results
        row = found["rows"]["student"]
        assert row["measures"]["nll"] == pytest.approx(nll), size
        assert found["examples"] == row["examples"] == 4
        assert found["knowledge"]["soft_targets"][0]["probabilities"]


def test_an_answer_that_is_not_finite_tells_nothing_of_the_others():
    p, y = np.array([[np.nan, np.nan], [0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]), np.arange(4) // 2
    itself = {"student": lambda x: x}
    found = report.compare(itself["student"], itself, batches(p, y, 2), runs=1)
    measures = found.results["rows"]["student"]["measures"]
    assert measures["accuracy"] == 0.75
    assert measures["expected_calibration_error"] == pytest.approx(0.2)


def test_kinds_are_told_as_soon_as_the_outputs_show_them():
    """Long data of many classes are not held until their end."""
    task, kinds = tasks.Classes(np.zeros((1, 2))), answering.Kinds({})
    halves = {"sure": np.full((answering.ENOUGH // 2, 2), 0.5)}
    assert [kinds.settle(task, halves) for _ in range(2)] == [False, True] and kinds["sure"]
    assert kinds.settle(task, {"logits": np.ones((3, 2))}) and not kinds["logits"]
    assert not kinds.settle(task, {"unit": np.full((999, 1), 0.5)})
    kinds.close()
    assert kinds["unit"]


def test_the_calibration_error_is_the_mean_over_the_seeds():
    y, seeds = RANDOM.integers(0, 4, 60), [net(3, 4, seed) for seed in (0, 1)]
    found = report.compare(net(8, 4, 9), {"student": seeds}, batches(X, y), runs=1)
    name = "expected_calibration_error"
    errors = [report.measure(each, batches(X, y))[name] for each in seeds]
    measured = found.results["rows"]["student"]["measures"][name]
    assert measured == pytest.approx(np.mean(errors), abs=1e-6)


def test_texts_that_are_padded_for_each_batch():
    model = keras.Sequential([layers.Embedding(9, 4), layers.GlobalAveragePooling1D(),
                              layers.Dense(3)])  # fmt: skip
    data = [(RANDOM.integers(0, 9, (4, length)), RANDOM.integers(0, 3, 4)) for length in (5, 7, 5)]
    found = report.compare(model, {"student": model}, data, runs=1).results
    assert (found["examples"], found["examples_of_exports"]) == (12, 8)


def test_a_row_for_each_exit():
    keras.utils.set_random_seed(0)
    x = keras.Input((6,))
    hidden = layers.Dense(4, "relu")(x)
    outputs = {"early": layers.Dense(3)(hidden), "hidden": hidden,
               "late": layers.Dense(3)(layers.Dense(4)(hidden))}  # fmt: skip
    student = keras.Model(x, outputs)
    y = RANDOM.integers(0, 3, 60)
    found = report.compare(net(8, 3), {"student": student}, batches(X, y), runs=1).results
    assert [*found["rows"]] == ["teacher", "student, early", "student, late"]
    early = keras.ops.convert_to_numpy(student(X)["early"]).argmax(-1)
    assert found["rows"]["student, early"]["value"] == pytest.approx(np.mean(early == y))
    assert found["rows"]["student, early"]["likeness"]["agreement"] <= 1
    assert "student, early" in report.Comparison(found).html()


def test_classes_of_texts():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("layers of strings need TensorFlow")
    texts = np.array(["a good film", "a bad film", "good", "bad bad film"] * 5)
    split = layers.TextVectorization(10, output_sequence_length=4)
    split.adapt(texts)

    def network(width, seed):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((), dtype="string")
        x = layers.GlobalAveragePooling1D()(layers.Embedding(10, width)(split(inputs)))
        return keras.Model(inputs, layers.Dense(2)(x))

    students = {"alone": network(2, 1), "distilled": network(2, 2)}
    data = [(texts[:12], np.arange(12) % 2), (texts[12:], np.arange(8) % 2)]
    found = report.compare(network(4, 0), students, data, runs=1)
    right = students["distilled"](texts).numpy().argmax(-1) == np.arange(20) % 2
    row = found.results["rows"]["distilled"]
    assert found.results["task"] == "classes" and row["value"] == pytest.approx(right.mean())
    assert "30% of the words missing" in row["robustness"]
    shown = found.results["knowledge"]["soft_targets"]
    assert shown and "image" not in shown[0] and shown[0]["text"] in texts
    assert "Soft targets" in found.html() and not found.results["knowledge"]["cka"]


def test_language_by_perplexity():
    def language(width, seed):
        keras.utils.set_random_seed(seed)
        return keras.Sequential([keras.Input((7,), dtype="int32"), layers.Embedding(11, width),
                                 layers.Dense(11)])  # fmt: skip

    ids = RANDOM.integers(0, 11, (20, 8))
    x, y, weights = ids[:, :-1], ids[:, 1:], (np.arange(7) < 5) * np.ones((20, 1))
    data = [(x[i : i + 6], y[i : i + 6], weights[i : i + 6]) for i in range(0, 20, 6)]
    student = language(3, 1)
    found = report.compare(language(5, 0), {"student": student, "alone": language(3, 2)}, data,
                           runs=1, examples=5)  # fmt: skip
    z = keras.ops.convert_to_numpy(keras.ops.log_softmax(student(x)))
    nll = [-z[i, t, y[i, t]] for i in range(20) for t in range(5)]
    row = found.results["rows"]["student"]
    assert found.results["task"] == "language"
    assert row["value"] == pytest.approx(np.exp(np.mean(nll)), rel=1e-5)
    assert {"10% of the tokens missing", "30% of the tokens missing"} < {*row["robustness"]}
    assert "perplexity" in found.markdown() and "perplexity" in found.html()


def test_summaries_by_rouge():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rougeL"])
    texts = np.array(["one two three four", "a film of a cat", "five six seven eight"])
    right = np.array(["one two", "a cat", "seven five"])

    def first(words):
        return lambda x: [" ".join(text.split()[:words]) for text in x]

    students = {"alone": first(1), "distilled": first(3)}
    data = [(texts[:2], right[:2]), (texts[2:], right[2:])]
    found = report.compare(first(2), students, data, task="summaries", runs=1)
    row = found.results["rows"]["distilled"]
    said = first(3)(texts)
    scores = [scorer.score(y, text) for y, text in zip(right, said)]
    assert row["value"] == pytest.approx(np.mean([s["rougeL"].fmeasure for s in scores]))
    expected = np.mean([s["rouge1"].fmeasure for s in scores])
    assert row["measures"]["rouge1"] == pytest.approx(expected)
    teacher = [scorer.score(y, text)["rougeL"].fmeasure for y, text in zip(first(2)(texts), said)]
    assert row["likeness"] == {"agreement": 0, "rouge_to_teacher": pytest.approx(np.mean(teacher))}
    assert "30% of the words missing" in row["robustness"] and "p" in row["difference"]
    assert "ROUGE-L %" in found.markdown() and "ROUGE-L" in found.html()
    with pytest.raises(ValueError, match="Exported models cannot write texts"):
        report.compare(first(2), students, data, task="summaries", exported=["x.tflite"])
    with pytest.raises(ValueError, match="one text for each of 2 answers"):
        report.compare(first(2), students, [(texts[:2], right)], task="summaries")


class Writes(keras.Model):
    """Writes the first word, as KerasHub's tasks write a text."""

    def generate(self, texts):
        return [text.split()[0] for text in texts]


def test_a_model_that_writes_texts_is_timed_as_it_writes():
    pytest.importorskip("rouge_score")
    model = Writes()
    model.built = True
    x = np.array(["one two", "three four"])
    timed = report.latency({"m": model}, x, runs=2, warmup=1, batch=3)
    assert timed["m"]["median_ms"] >= 0
    found = report.compare(model.generate, {"student": model.generate}, [(x, x)],
                           task="summaries")  # fmt: skip
    assert found.results["rows"]["student"]["value"] == pytest.approx(2 / 3)


def test_peak_memory_is_that_of_the_model():
    if keras.backend.backend() != "tensorflow" or not os.path.exists("/proc/self/status"):
        pytest.skip("it is measured on Linux, with TensorFlow")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2000,)), layers.Dense(2000), layers.Dense(1)])
    assert report.peak_memory(model, np.ones((2, 2000), "float32")) >= model.count_params() * 4
    assert report.peak_memory(model, np.array(["a text"])) is None


def test_the_memory_of_a_model_with_a_list_of_inputs():
    a, b = keras.Input((2,)), keras.Input((3,))
    model = keras.Model([a, b], layers.Dense(2)(layers.Concatenate()([a, b])))
    assert report.peak_memory(model, [np.ones((1, 2)), np.ones((1, 3))]) > 0


def test_a_student_whose_answers_are_not_finite(classes):
    teacher, students, y = classes
    broken, lost = net(3, 4), net(3, 1)
    for model in (broken, lost):
        model.set_weights([weights * np.nan for weights in model.get_weights()])
    data = batches(X, np.zeros(60, int))  # the class that `argmax` takes NaN for
    found = report.compare(teacher, {**students, "broken": broken}, data, runs=1)
    row = found.results["rows"]["broken"]
    assert row["value"] == 0 and row["measures"]["nll"] is None
    assert "broken" in found.html() and "| broken | 0.00" in found.markdown()
    numbers = report.compare(net(8, 1), {"alone": net(3, 1), "broken": lost}, batches(X, X[:, 0]),
                             runs=1)  # fmt: skip
    assert numbers.results["rows"]["broken"]["value"] is None
    assert "broken has - (" in numbers.html()


def test_mistakes(classes):
    teacher, students, y = classes
    data = batches(X, y)
    with pytest.raises(ValueError, match="No name may be 'teacher'"):
        report.compare(teacher, {"teacher": teacher}, data)
    with pytest.raises(ValueError, match="`baseline` must name one of"):
        report.compare(teacher, students, data, baseline="nobody")
    with pytest.raises(ValueError, match="`task` must be one of"):
        report.compare(teacher, students, data, task="ranking")
    with pytest.raises(ValueError, match="at least one batch"):
        report.compare(teacher, students, [])
    with pytest.raises(ValueError, match="must hold labels"):
        report.compare(teacher, students, [(X,)])
    with pytest.raises(ValueError, match=r"integers in \[0, 4\)"):
        report.compare(teacher, students, batches(X, y + 4))
    with pytest.raises(FileNotFoundError, match="No such exported model"):
        report.compare(teacher, students, data, exported=["nowhere.tflite"])
    with pytest.raises(ValueError, match="must be positive"):
        report.compare(teacher, students, data, runs=0)
