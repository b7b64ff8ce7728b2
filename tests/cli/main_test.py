"""The command line, called in this process: exit codes and what is said."""

import subprocess
import sys

import keras
import pytest

from keras_distill.cli.main import VERBS, main

EXPERIMENT = """
import keras, numpy as np, tensorflow as tf
from keras_distill import Experiment

def model(width):
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(width, "relu"), keras.layers.Dense(3)])

def data(split):
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, x[:, :3].argmax(-1))).batch(8)

def experiment(epochs=1, stop=False):
    def student():
        if stop:
            raise KeyboardInterrupt
        return model(2)

    return Experiment("tiny", student=student, teacher=lambda: model(8), data=data,
        optimizer=keras.optimizers.Adam, epochs=epochs, seeds=1,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "tiny.py"
    path.write_text(EXPERIMENT)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, file):
    """A run that was interrupted, then resumed."""
    folder = tmp_path_factory.mktemp("run") / "out"
    train = ["train", f"--experiment={file}", f"--out={folder}"]
    assert main([*train, "--set", "stop=True"]) == 130
    assert main([*train, "--resume"]) == 0
    return folder


def fails(capsys, *argv):
    """The one line that a mistake leaves on stderr."""
    capsys.readouterr()
    assert main(list(map(str, argv))) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_names_the_verbs(argv, capsys):
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example(verb, capsys):
    assert main([verb, "--help"]) == 0
    assert f"python -m keras_distill {verb} " in capsys.readouterr().out


def test_a_wrong_verb(capsys):
    assert "no verb `tarin`" in fails(capsys, "tarin")


def test_help_imports_no_tensorflow():
    code = "import sys; from keras_distill.cli.main import main; main(['--help'])"
    code += "; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_mistakes_are_said_in_one_line(file, tmp_path, capsys):
    empty = tmp_path / "empty.py"
    empty.write_text("")
    out = f"--out={tmp_path / 'out'}"
    assert "--experiment" in fails(capsys, "train", out)
    assert "No such experiment file" in fails(capsys, "train", out, "--experiment=nowhere.py")
    assert "no function `experiment`" in fails(capsys, "train", out, f"--experiment={empty}")
    known = "no option `epoch`. It has: epochs, stop."
    assert known in fails(capsys, "train", out, f"--experiment={file}", "--set", "epoch=2")
    assert "no option `tsv`" in fails(capsys, "train", out, f"--experiment={file}", "--tsv=a")
    assert "KEY=VALUE" in fails(capsys, "train", out, f"--experiment={file}", "--set", "epochs")
    assert "No such model file" in fails(capsys, "layers", "nowhere.keras")


def test_a_run_is_kept_unless_overwritten(run, file, capsys):
    train = ["train", f"--experiment={file}", f"--out={run}"]
    assert "--overwrite or --resume" in fails(capsys, *train)
    assert main([*train, "--overwrite"]) == 0


def test_interruption_says_how_to_go_on(file, tmp_path, capsys):
    train = ["train", f"--experiment={file}", f"--out={tmp_path}", "--set", "stop=True"]
    assert main(train) == 130
    assert "--resume" in capsys.readouterr().err
    assert (tmp_path / "arms/teacher.keras").exists()


def test_evaluate_prints_the_table(run, file, capsys):
    models = [f"--model={run / 'student.keras'}", f"--teacher={run / 'teacher.keras'}"]
    assert main(["evaluate", *models, f"--experiment={file}"]) == 0
    printed = capsys.readouterr().out
    assert "student" in printed and "teacher" in printed and "accuracy" in printed


def test_export_writes_a_saved_model(run, tmp_path, capsys):
    argv = ["export", f"--model={run / 'student.keras'}", f"--out={tmp_path}", "--name=tiny"]
    assert main(argv) == 0
    assert (tmp_path / "tiny/1/saved_model.pb").exists()
    assert "differs by at most" in capsys.readouterr().out


def test_layers_prints_paths(run, capsys):
    assert main(["layers", str(run / "student.keras")]) == 0
    name = keras.saving.load_model(run / "student.keras").layers[0].name
    assert name in capsys.readouterr().out
