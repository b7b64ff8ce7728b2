"""The verb `export`: what it reads, what it writes, and how it refuses."""

import json
import os
import shutil

import keras
import numpy as np
import pytest

from keras_distill.cli.export_inputs import of_run, provenance
from keras_distill.cli.main import main
from keras_distill.experiments.comparison import keep_examples
from keras_distill.export import reload
from keras_distill.export import write as export_student


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a student, inputs with their answers, and names of classes."""
    folder = tmp_path_factory.mktemp("export")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)], name="tiny")
    model.save(folder / "student.keras")
    x = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    targets = model.predict(x, verbose=0).argmax(-1)
    np.savez(folder / "examples.npz", inputs=x, targets=targets)
    (folder / "run.json").write_text(json.dumps({"alpha": 0.5, "other": 1}))
    arms = {"distilled": {"seeds": [{"accuracy": 0.9}], "history": []}}
    (folder / "report.json").write_text(json.dumps({"name": "tiny run", "arms": arms}))
    (folder / "labels.txt").write_text("<b>null</b>\neins\nzwei ☃\n", encoding="utf-8")
    return folder


def export(folder, *argv):
    return main(["export", f"--model={folder / 'student.keras'}", *map(str, argv)])


def refusal(capsys):
    printed = capsys.readouterr()
    assert len(printed.err.strip().splitlines()) == 1 and not printed.out, printed
    return printed.err


def test_real_inputs_and_labels(folder, tmp_path, capsys):
    argv = [f"--out={tmp_path}", f"--inputs={folder / 'examples.npz'}"]
    assert export(folder, *argv, f"--labels={folder / 'labels.txt'}", "--name=digits") == 0
    assert "over 20 examples; accuracy 1.0000" in capsys.readouterr().out
    import tensorflow as tf

    classify = tf.saved_model.load(str(tmp_path / "digits/1")).signatures["classify"]
    names = classify(tf.zeros((1, 4)))["classes"].numpy()[0]
    assert {name.decode() for name in names} == {"<b>null</b>", "eins", "zwei ☃"}


def test_a_run_is_exported_and_tried_on_its_own_examples(folder, tmp_path, capsys):
    assert main(["export", f"--model={folder}", f"--out={tmp_path}"]) == 0
    assert "over 20 examples; accuracy 1.0000" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["tiny"]
    told = json.loads((tmp_path / "tiny/1/assets/provenance.json").read_text())
    assert told["alpha"] == 0.5 and told["name"] == "tiny run"
    assert told["metrics"] == {"distilled": [{"accuracy": 0.9}]}
    assert len(told["validation examples (SHA-256)"]) == 64
    assert main(["export", f"--model={tmp_path}", f"--out={tmp_path}"]) == 2
    assert "holds no finished run" in refusal(capsys)


def test_a_run_with_a_list_of_inputs(folder, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    a, b = keras.Input((4,), name="z"), keras.Input((4,), name="a")  # not in alphabetical order
    model = keras.Model([a, b], keras.layers.Dense(3)(a - 2 * b), name="pair")
    model.save(run / "student.keras")
    x, other = np.random.default_rng(0).normal(size=(2, 20, 4)).astype("float32")
    y = model.predict([x, other], verbose=0).argmax(-1)
    batches = [((x[s], other[s]), y[s]) for s in (slice(12), slice(12, None))]
    keep_examples(run / "examples.npz", batches)
    out = f"--out={tmp_path / 'out'}"
    assert main(["export", f"--model={run}", out, "--format=serving,litert"]) == 0
    said = capsys.readouterr().out
    assert said.count("over 20 examples") == 2 and "accuracy 1.0000, the student's 1.0000" in said
    with pytest.raises(ValueError, match="an array for each input of the model"):
        export_student(model, tmp_path / "more", inputs=[x, other, x])


def test_a_run_of_compress_is_tried_on_the_examples_of_its_last_comparison(folder, tmp_path):
    run = shutil.copytree(folder, tmp_path / "run")
    expected = of_run(run)[0]
    (run / "final").mkdir()
    for name in ("examples.npz", "report.json"):
        (run / name).rename(run / "final" / name)
    np.testing.assert_array_equal(of_run(run)[0], expected)
    assert "validation examples (SHA-256)" in provenance(None, run)


def test_examples_of_inputs_with_names_that_the_file_uses(tmp_path):
    names = ("targets", "sample_weight", "file", "inputs", "x")
    x = {name: np.full((4, 2), index, "float32") for index, name in enumerate(names)}
    for inputs in (x, {"inputs": x["x"]}):
        keep_examples(tmp_path / "examples.npz", [(inputs, np.arange(4), np.ones(4))])
        found, targets, weights = of_run(tmp_path)
        assert {name: each[0, 0] for name, each in found.items()} == {
            name: each[0, 0] for name, each in inputs.items()
        }
        assert targets.tolist() == [0, 1, 2, 3] and weights.tolist() == [1] * 4


def test_what_fails_its_check_ends_with_two_and_one_line(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reload, "outputs_of", lambda *_: {"logits": np.full((8, 3), np.nan)})
    assert export(folder, f"--out={tmp_path}") == 2
    said = refusal(capsys)
    assert "did not pass its check" in said and "1.failed" in said
    assert os.listdir(tmp_path / "tiny") == ["1.failed"]


def test_mistakes_are_said_in_one_line(folder, tmp_path, capsys):
    def says(what, *argv):
        assert export(folder, f"--out={tmp_path / 'out'}", *argv) == 2
        assert what in refusal(capsys)
        assert not os.path.exists(tmp_path / "out")

    says("names a folder", "--name=../up")
    says("`formats` must name at least one of", "--format=tflite")
    says("`quantize` must be one of", "--quantize=int3")
    says("cannot be quantized", "--quantize=int8")
    says("`exit` must name one of", "--exit=early")
    says("No such file", "--inputs=nowhere.npz")
    says("takes an .npz file of arrays", f"--inputs={folder / 'labels.txt'}")
    says("No such file", "--labels=nowhere.txt")
    for content, what in ((b"", "a file that is not empty"), (b"\xe9", "text in UTF-8")):
        (tmp_path / "bad").write_bytes(content)
        says(what, f"--labels={tmp_path / 'bad'}")
        says("takes an .npz file of arrays", f"--inputs={tmp_path / 'bad'}")
    np.savez(tmp_path / "other.npz", inputs=np.zeros((2, 5)))
    says("No such file", "--provenance=nowhere.json")
    (tmp_path / "list.json").write_text("[1]")
    says("takes a JSON file with an object", f"--provenance={tmp_path / 'list.json'}")
    says("takes LOW,HIGH", "--image-range=0")
    says("cannot have the signature `text`", "--signature=text")
    says("must have the shape (None, 4)", f"--inputs={tmp_path / 'other.npz'}")


def test_no_code_of_a_model_file_runs(folder, tmp_path, capsys):
    layers = [keras.Input((4,)), keras.layers.Lambda(lambda x: 2 * x)]
    keras.Sequential(layers).save(tmp_path / "lambda.keras")
    out = tmp_path / "out"
    assert main(["export", f"--model={tmp_path / 'lambda.keras'}", f"--out={out}"]) == 2
    said = refusal(capsys)
    assert "code in a model file is never run. Replace the layer" in said and not out.exists()
    shutil.copy(tmp_path / "lambda.keras", tmp_path / "student.keras")
    assert main(["export", f"--model={tmp_path}", f"--out={out}"]) == 2
