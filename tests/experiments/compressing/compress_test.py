"""From a teacher to a student by one call: what it tries, chooses, writes and resumes."""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Experiment
from keras_distill.cli.compress import _sizes
from keras_distill.cli.main import main
from keras_distill.experiments.compressing import answer, compress
from keras_distill.experiments.compressing.compress import around
from keras_distill.experiments.compressing.students import proposals, within
from keras_distill.experiments.file import load_experiment
from keras_distill.experiments.tuning import trial

FILE = """
import keras, numpy as np, tensorflow as tf
from keras_distill import Experiment

def student(size=1.0):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(round(8 * size), "relu"),
                             keras.layers.Dense(3)])

def teacher():
    blocks = [keras.layers.Dense(8, "relu", name=f"block_{i}") for i in range(2)]
    return keras.Sequential([keras.Input((4,)), *blocks, keras.layers.Dense(3)])

def data(split):
    x = np.random.default_rng(len(split)).normal(size=(48, 4)).astype("float32")
    batches = tf.data.Dataset.from_tensor_slices((x, x[:, :3].argmax(-1)))
    return (batches.shuffle(48) if split == "train" else batches).batch(16)

def experiment(epochs=4, taught=0):
    return Experiment("tiny", student=student, teacher=teacher, data=data, epochs=epochs,
        optimizer=lambda: keras.optimizers.Adam(0.02), teacher_epochs=10,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
"""
CALL = {"repeats": 2, "sizes": [1.0, 0.5], "keep": 0.5}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "tiny.py"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def found(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compress")
    return folder, compress(file, folder, **CALL)


def test_the_better_of_two_is_exported_and_a_sentence_says_which(found):
    folder, result = found
    answer = result["answer"]
    gains = np.subtract(answer["distilled"], answer["alone"])
    assert answer["gain"] == pytest.approx(gains.mean())
    assert answer["arm"] == ("distilled" if gains.mean() > 0 else "alone")
    student = keras.saving.load_model(folder / "student.keras")
    again = keras.saving.load_model(
        folder / "final" / "arms" / f"{answer['arm']}-{answer['seed']}.keras"
    )
    for one, other in zip(student.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert answer["verdict"] in (folder / "summary.md").read_text()
    assert (folder / "pareto.png").stat().st_size > 1000
    assert (folder / "final" / "report.html").exists()
    assert json.loads((folder / "compress.json").read_text()) == result


def test_every_student_is_measured_and_the_smallest_that_keeps_the_share_is_taken(found):
    _, result = found
    costs = result["students"]
    cut = ["2 of 2 blocks, half as wide", "1 of 2 blocks", "1 of 2 blocks, half as wide"]
    assert {*costs} == {"size 1", "size 0.5", *cut}
    assert costs["size 1"]["flops"] == 2 * (4 * 8 + 8 * 3) > costs["size 0.5"]["flops"]
    enough = {each["student"] for each in result["search"] if each["setting"] is not None
              and each["epochs"] == 4 and each["score"] >= 0.5 * result["teacher"]["score"]}
    if enough:
        assert costs[result["student"]]["flops"] == min(costs[name]["flops"] for name in enough)
    trained = {(each["student"], str(each["setting"]), each["epochs"]) for each in result["search"]}
    assert (result["student"], "None", 4) in trained  # the student alone is an arm


def test_what_was_killed_ends_as_what_was_not(found, file, tmp_path, monkeypatch):
    """A finished run of which a trial, an arm of the comparison and the answer were not written."""
    folder, result = shutil.copytree(found[0], tmp_path / "run"), found[1]
    pieces = (folder / "trials").glob("*-4.json")  # one that began at 0, and no state before it
    piece = min(each for each in pieces if not each.with_name(f"{each.stem[:-1]}1.json").exists())
    for path in (piece, folder / "compress.json", folder / "student.keras",
                 folder / "final" / "arms" / "distilled-2.keras"):  # fmt: skip
        path.unlink()
    trained, calls = trial.Trial._train, []

    def killed(self, *arguments):
        calls.append(self)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return trained(self, *arguments)

    monkeypatch.setattr(trial.Trial, "_train", killed)
    with pytest.raises(KeyboardInterrupt):
        compress(file, folder, **CALL, resume=True)
    again = compress(file, folder, **CALL, resume=True)
    assert len(calls) == 2 and piece.exists() and (folder / "student.keras").exists()
    assert again["setting"] == result["setting"] and again["student"] == result["student"]
    assert again["answer"]["distilled"] == result["answer"]["distilled"]
    with pytest.raises(ValueError, match="other settings"):
        compress(file, folder, **{**CALL, "keep": 0.6}, resume=True)
    with pytest.raises(FileExistsError):
        compress(file, folder, **CALL)


@pytest.mark.parametrize(
    "name, content",
    [("costs.json", "[1]"), ("costs.json", '{"teacher": {}}'), ("default.json", "{}")],
)
def test_a_damaged_file_is_named(found, file, tmp_path, name, content):
    folder = shutil.copytree(found[0], tmp_path / "run")
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        compress(file, folder, **CALL, resume=True)


def test_the_student_is_exported_as_asked_and_again_where_it_is_another(
    found, file, tmp_path, monkeypatch
):
    shutil.copy(found[0] / "student.keras", tmp_path)
    experiment, model = load_experiment(file, {}), tmp_path / "exported/tiny/1/saved_model.pb"
    answer.export(tmp_path, found[1], experiment, ["serving"], "none")
    assert model.exists()
    asked = []

    def written(student, part, formats, **others):
        pathlib.Path(part).mkdir()
        asked.append((formats, others["quantize"]))
        return []

    monkeypatch.setattr(answer, "write_exports", written)
    answer.export(tmp_path, found[1], experiment, ["serving"], "none")
    assert model.exists() and not asked
    other = {**found[1], "answer": {**found[1]["answer"], "seed": 77}}
    for result, formats, quantize in (
        (other, ["serving"], "none"),
        (other, ["litert"], "none"),
        (other, ["litert"], "int8"),
    ):
        answer.export(tmp_path, result, experiment, formats, quantize)
        assert asked[-1] == (formats, quantize) and not model.exists()
    answer.export(tmp_path, other, experiment, ["litert"], "int8")
    assert len(asked) == 3


def test_the_table_has_means_over_the_seeds_for_both_splits(found):
    folder, result = found
    report = json.loads((folder / "final/report.json").read_text())
    for arm in ("alone", "distilled"):
        tested = [100 * seed["accuracy"] for seed in report["arms"][arm]["seeds"]]
        assert result["answer"]["test"][arm] == pytest.approx(tested)
        row = f", {arm} | {np.mean(result['answer'][arm]):.2f} | {np.mean(tested):.2f} |"
        assert row in (folder / "summary.md").read_text()


def test_a_size_that_the_experiment_does_not_take_is_refused_before_any_training(tmp_path):
    path = tmp_path / "whole.py"
    path.write_text(FILE.replace("def student(size=1.0):", "def student(size=8):").replace(
        "round(8 * size)", "range(9)[size]"))  # fmt: skip
    with pytest.raises(ValueError, match=r"`student\(size=1.0\)` cannot be made. Give `sizes`"):
        compress(path, tmp_path / "run", repeats=1)
    assert not (tmp_path / "run").exists()
    assert _sizes("8,0.5") == [8, 0.5] and isinstance(_sizes("8")[0], int)


def test_within_a_budget_the_best_goes_on(found, file, tmp_path, monkeypatch, capsys):
    """And what is found outlives a plot that cannot be drawn."""

    def broken(path, found):
        raise ValueError("no picture")

    monkeypatch.setattr(answer, "plot", broken)
    teacher = shutil.copy(found[0] / "arms" / "teacher.keras", tmp_path / "teacher.keras")
    most = found[1]["students"]["size 0.5"]["flops"]
    result = compress(file, tmp_path / "run", teacher=teacher, max_flops=most, repeats=1,
                      sizes=[1.0, 0.5], options={"epochs": 1},
                      strategy=tf.distribute.MirroredStrategy(["CPU:0"]))  # fmt: skip
    assert "Could not draw pareto.png: no picture" in capsys.readouterr().out
    assert (tmp_path / "run" / "compress.json").exists()
    assert result["students"][result["student"]]["flops"] <= most
    assert "error" in result["answer"] and result["answer"]["error"] is None
    with pytest.raises(ValueError, match="No student is within the budget"):
        compress(file, tmp_path / "none", teacher=teacher, max_mb=1e-6)


def test_of_a_regression(tmp_path):
    file = tmp_path / "sum.py"
    text = FILE.replace("x[:, :3].argmax(-1)", "x[:, :2] * (1, 9)").replace("Dense(3)", "Dense(2)")
    file.write_text(
        text.replace("keras.losses.SparseCategoricalCrossentropy(from_logits=True)", '"mse"')
    )
    found = compress(file, tmp_path / "run", keep=0.01, repeats=1, sizes=[1.0],
                     options={"epochs": 1})  # fmt: skip
    made = load_experiment(file, {})
    answer, final = found["answer"], tmp_path / "run" / "final" / "arms"
    x, y = (np.concatenate(each) for each in zip(*made.data("valid").as_numpy_iterator()))
    for arm in ("alone", "distilled"):
        values = keras.saving.load_model(final / f"{arm}-1.keras").predict(x, verbose=0)
        r2 = np.mean(1 - np.square(y - values).mean(0) / y.var(0))
        assert answer[arm][0] == pytest.approx(r2, rel=1e-4)
    assert found["setting"]["loss"] == "mse" and found["task"] == "numbers"
    assert 0 < answer["p"] <= 1 and "in R² on the validation split" in answer["verdict"]
    summary = (tmp_path / "run" / "summary.md").read_text(encoding="utf-8")
    assert "validation R²" in summary and "% of the teacher's validation R²" in summary
    assert (tmp_path / "run" / "pareto.png").stat().st_size > 1000


def test_what_costs_more_than_a_budget_is_dropped():
    costs = {"large": {"ms": 2.0, "flops": 10}, "small": {"ms": 1.0, "flops": 4}}
    assert within(costs, {"ms": None, "flops": None}) == ["large", "small"]
    assert within(costs, {"ms": 1.5, "flops": 10}) == ["small"]
    with pytest.raises(ValueError, match="The smallest costs are {'flops': 4}"):
        within(costs, {"flops": 3, "ms": None})
    costs["large"]["flops"] = None  # of a student of strings
    assert within(costs, {"ms": 1.5, "flops": None}) == ["small"]
    with pytest.raises(ValueError, match="can only be counted for numbers"):
        within(costs, {"flops": 10})


def test_a_student_that_is_cut_is_the_same_each_time_and_keeps_what_matters(file):
    experiment = load_experiment(file, {})
    teacher = experiment.teacher()
    dead = [0, 2, 3, 5]
    first = teacher.layers[0]
    kernel, bias = first.get_weights()
    kernel[:, dead] = 0
    first.set_weights([kernel, bias])
    made = {each.name: each.make for each in proposals(experiment, teacher, [1.0])}
    one, other = (made["2 of 2 blocks, half as wide"]() for _ in range(2))
    for ours, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(one.get_weights()[0], kernel[:, [1, 4, 6, 7]])


def test_a_teacher_of_token_ids_is_also_cut_to_those_of_the_data():
    def network(width=8):
        inputs = keras.Input((5,), dtype="int32")
        vectors = keras.layers.Embedding(1000, width)(inputs)
        mean = keras.layers.GlobalAveragePooling1D()(vectors)
        return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dense(6, "relu")(mean)))

    words = np.random.default_rng(0).choice(1000, 30, replace=False)
    x = np.random.default_rng(1).choice(words, (16, 5))
    data = tf.data.Dataset.from_tensor_slices((x, x[:, 0] % 2)).batch(8)
    teacher = network()
    given = {"student": lambda: network(2), "teacher": network, "optimizer": keras.optimizers.Adam,
             "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "epochs": 1}
    found = proposals(Experiment("ids", data=lambda split: data, **given), teacher)
    made = {each.name: each for each in found}
    seen = len(np.unique(x))
    small = made[f"{seen} of 1,000 tokens"].make()
    assert small.count_params() == teacher.count_params() - 8 * (1000 - seen - 1)
    np.testing.assert_allclose(small(x), teacher(x), atol=1e-6)
    words = np.arange(1000).reshape(-1, 5)
    every = Experiment("ids", data=lambda split: [(words, np.zeros(200))], **given)
    assert not any("tokens" in each.name for each in proposals(every, teacher))


def test_mistakes_are_one_line(file, tmp_path, capsys):
    command = ["compress", f"--experiment={file}", f"--out={tmp_path / 'run'}"]
    for words, said in (
        (["--keep=1.5"], "`keep` must be a share in (0, 1]"),
        (["--max-ms=0"], "`max_ms` must be positive"),
        (["--sizes=big"], "--sizes takes positive numbers"),
        (["--teacher=nowhere.keras"], "No such model file: nowhere.keras"),
        (["--repeats=0"], "`repeats` must be at least 1"),
        (["--mesh=data:2"], "`mesh` needs the JAX backend"),
        (["--strategy=many"], "`strategy` must be one of none"),
        (["--teacher="], "--teacher is empty"),
    ):
        assert main([*command, *words]) == 2
        printed = capsys.readouterr().err
        assert said in printed and printed.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_settings_around_the_default_differ_from_it_and_from_each_other():
    default = {"recipe": "dist", "temperature": 4.0, "alpha": 0.5}
    settings = around(default)
    assert settings[0] == default
    assert len({str(each) for each in settings}) == len(settings) == 4
