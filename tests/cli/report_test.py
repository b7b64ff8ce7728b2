"""The verb `report`: one page of one run and of several, from the data that a run keeps."""

import json
import os
import shutil

import keras
import numpy as np
import pytest

from keras_distill.cli import report_inputs
from keras_distill.cli.main import main
from keras_distill.experiments.run_folder import RunFolder
from keras_distill.experiments.runner import Arm, Runner
from keras_distill.report import compare


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    """The peak memory of a model without a process of its own for each."""
    monkeypatch.setitem(compare.__globals__, "peak_memory", lambda *_: 12_300_000)


def net(width, seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(width, "relu"), keras.layers.Dense(3)]
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two seeds, of which the second was exported."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    run = RunFolder(folder)
    run.open({"name": "tiny", "alpha": 0.5, "seeds": [3, 5]})
    run.keep("teacher", net(8, 0), {"history": {}, "seconds": 1.0})
    for arm, first in (("alone", 10), ("distilled", 20)):
        for seed in (3, 5):
            history = {"loss": [2.0, 1.0 + seed / 10]}
            run.keep(f"{arm}-{seed}", net(4, first + seed), {"history": history, "seconds": 1.0})
    shutil.copy(run.file("distilled-5"), folder / "student.keras")
    (folder / "report.json").write_text(json.dumps({"command": "train it", "seconds": 5.0}))
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    np.savez(folder / "examples.npz", inputs=x, targets=np.arange(40) % 3)
    return folder


def refusal(capsys):
    printed = capsys.readouterr()
    assert len(printed.err.strip().splitlines()) == 1 and not printed.out, printed
    return printed.err


def test_a_run_on_the_examples_that_it_keeps(run, capsys):
    assert main(["report", str(run), "--timings=1"]) == 0
    said = capsys.readouterr().out
    assert f"{run}: distilled has " in said and "compared with alone" in said
    found, = json.loads((run / "comparison.json").read_text())["comparisons"]
    assert found["name"] == "tiny" and found["examples"] == 40
    x = np.load(run / "examples.npz")["inputs"]
    right = [np.mean(RunFolder(run).model(f"distilled-{seed}").predict(x, verbose=0).argmax(-1)
                     == np.arange(40) % 3) for seed in (5, 3)]  # fmt: skip
    assert found["rows"]["distilled"]["by_seed"] == pytest.approx(right)  # the exported one first
    assert found["histories"]["distilled"][0]["loss"] == [2.0, 1.5]
    assert found["costs"]["teacher"]["peak_bytes"] == 12_300_000
    assert found["provenance"]["command"] == "train it" and found["provenance"]["seeds"] == [3, 5]
    told = "the examples of the validation split"
    assert told in found["provenance"]["data"] and f"measured on {told}" in said
    assert f"40 examples ({told}" in (run / "comparison.md").read_text(encoding="utf-8")
    assert main(["report", str(run)]) == 2
    assert "never overwrites" in refusal(capsys)
    for ending in ("html", "md", "json"):
        os.remove(run / f"comparison.{ending}")


def test_the_seed_that_was_exported_comes_first_in_every_arm():
    def model(value):
        made = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        made.set_weights([np.full((1, 1), value)])
        return made

    models = {arm: [model(value + seed) for seed in range(3)]
              for arm, value in (("alone", 10), ("distilled", 20))}  # fmt: skip
    models["teacher"] = [model(30)]
    histories = {arm: [f"{arm} {i}" for i in range(len(each))] for arm, each in models.items()}
    report_inputs._first(models, histories, model(22))
    order = {arm: [int(each.get_weights()[0][0, 0]) for each in all] for arm, all in models.items()}
    assert order == {"alone": [12, 10, 11], "distilled": [22, 20, 21], "teacher": [30]}
    assert histories["alone"] == ["alone 2", "alone 0", "alone 1"]


def test_several_runs_on_one_page(run, tmp_path, capsys):
    other = tmp_path / "compressed"
    shutil.copytree(run, other / "final")
    argv = ["report", str(run), str(other), "--timings=1"]
    assert main([*argv, f"--out={tmp_path / 'both.html'}"]) == 0
    capsys.readouterr()
    text = (tmp_path / "both.md").read_text(encoding="utf-8")
    assert text.count("## Quality") == 2
    assert "2 comparisons" in (tmp_path / "both.html").read_text(encoding="utf-8")
    assert main(argv) == 2
    assert "Several runs need --out" in refusal(capsys)


def test_mistakes_are_said_in_one_line(run, tmp_path, capsys):
    def says(what, *argv):
        assert main(["report", *map(str, argv)]) == 2
        assert what in refusal(capsys)

    says("No such run", tmp_path / "nowhere")
    says("It has no run.json", tmp_path)
    says("must end in .html", run, f"--out={tmp_path / 'page.txt'}")
    says("No such exported model", run, "--exported=nowhere.onnx")
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    os.remove(copy / "examples.npz")
    says("Give the run's --experiment", copy)
    os.remove(copy / "arms" / "alone-5.json")
    says("It has no alone-5", copy)
    (tmp_path / "results.json").write_text("[1]")
    says("results.json is damaged", tmp_path)
    (tmp_path / "file").touch()
    says("is a file, or a path inside a file", run, f"--out={tmp_path / 'file/page.html'}")
    assert not list(tmp_path.rglob("comparison.*"))


def test_a_run_of_any_task_is_reported_as_it_measured_itself(run, tmp_path, capsys):
    def train(width):
        return lambda seed, model_of: (net(width, seed), {"loss": [2.0, 1.0 + seed], "one": "x"})

    def measure(seed, model, model_of):
        return {"score %": 90.0 + seed + len(model.layers), "words": 7}

    arms = {"alone": Arm(train(2), measure), "<b>small</b>": Arm(train(4), measure),
            "file": Arm(None, lambda seed, model, model_of: {"kB": 1.5 - seed})}  # fmt: skip
    folder = tmp_path / "any"
    Runner(arms, seeds=[0, 1], folder=folder, settings={"rate": 0.1}).run()
    capsys.readouterr()
    assert main(["report", str(folder), str(run), "--timings=1",
                 f"--out={tmp_path / 'page.html'}"]) == 0  # fmt: skip
    assert "score %: alone 92.50" in capsys.readouterr().out
    first, second = json.loads((tmp_path / "page.json").read_text())["comparisons"]
    assert first["arms"]["alone"]["score %"] == [92.0, 93.0] and second["examples"] == 40
    assert first["histories"]["alone"] == [{"loss": [2.0, 1.0]}, {"loss": [2.0, 2.0]}]
    assert first["sizes"]["alone"] > 1000 and "file" not in first["sizes"]
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "92.50 ± 0.71" in text and "+0.00 ± 0.0" in text
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>small" not in page and "rate: 0.1" in page


def test_a_run_tells_its_task_by_its_measures(run, tmp_path, capsys):
    """Its first examples are all 0 or 1, as the labels of two classes."""
    folder = tmp_path / "claims"
    kept = RunFolder(folder)
    kept.open({"name": "claims", "seeds": [3]})
    for seed, name in enumerate(("teacher", "alone-3", "distilled-3")):
        model = keras.Sequential([net(2, seed), keras.layers.Dense(1)])
        kept.keep(name, model, {"history": {}, "seconds": 1.0})
    y = np.arange(40) % 2 + np.eye(40)[39] * 2
    np.savez(folder / "examples.npz", inputs=np.load(run / "examples.npz")["inputs"], targets=y)
    arms = {"teacher": {"seeds": [{"r2": 0.5}]}, "alone": {"seeds": [{"r2": None}]}}
    told = {"command": "train it", "seconds": 5.0, "arms": arms}
    (folder / "report.json").write_text(json.dumps(told))
    assert main(["report", str(folder), "--timings=1"]) == 0, capsys.readouterr().err
    found, = json.loads((folder / "comparison.json").read_text())["comparisons"]
    assert found["task"] == "numbers" and "R²" in capsys.readouterr().out


def test_seeds_may_have_columns_of_their_own(tmp_path, capsys):
    def measure(seed, model, model_of):
        return {"words": 5 + 2 * seed} | ({"late": 1.5} if seed else {"early": 2.5})

    folder = tmp_path / "any"
    Runner({"file": Arm(None, measure)}, seeds=[0, 1], folder=folder).run()
    assert "| file | 6.00 ± 1.41 | 2.50 | 1.50 |" in capsys.readouterr().out
    assert main(["report", str(folder), f"--out={tmp_path / 'page.html'}"]) == 0
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| file | 6.000 ± 1.4 | 2.500 | 1.500 |" in text, text


def test_counts_of_a_regression_are_no_classes(run, tmp_path, capsys):
    """An experiment knows its task, which small whole numbers do not show."""
    folder = shutil.copytree(run, tmp_path / "counts")
    file = tmp_path / "counts.py"
    file.write_text("""
import keras, numpy as np
from keras_distill import Experiment

def data(split):
    import tensorflow as tf
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    y = np.stack([np.arange(40) % 3, np.arange(40) % 2, np.arange(40) % 5], -1)
    return tf.data.Dataset.from_tensor_slices((x, y.astype("int64"))).batch(8)

def model():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])

def experiment():
    return Experiment("counts", student=model, teacher=model, data=data, loss="mse",
                      optimizer=lambda: "sgd", epochs=1)
""")
    command = ["report", str(folder), f"--experiment={file}", "--timings=1"]
    assert main(command) == 0
    found, = json.loads((folder / "comparison.json").read_text())["comparisons"]
    assert found["task"] == "numbers" and "R²" in capsys.readouterr().out
