"""The command line: exit codes and what is said."""

import importlib
import io
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_distill.cli import train
from keras_distill.cli.main import VERBS, main
from keras_distill.experiments import experiment
from keras_distill.experiments.file import options_of

EXPERIMENT = """
import os
import keras, numpy as np, tensorflow as tf
from keras_distill import Experiment

def model(width):
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(width, "relu"), keras.layers.Dense(3)])

def data(split):
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, x[:, :3].argmax(-1))).batch(8)

def experiment(epochs=1, seeds=1, units=2):
    calls = []

    def student():
        calls.append(1)
        if len(calls) > 1 and os.environ.get("STOP"):  # after the rehearsal
            raise KeyboardInterrupt
        return model(units)

    return Experiment("tiny", student=student, teacher=lambda: model(8), data=data,
        optimizer=keras.optimizers.Adam, epochs=epochs, seeds=seeds,
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STOP", "1")
        assert main(train) == 130
    assert main([*train, "--resume"]) == 0
    return folder


def fails(capsys, *argv):
    """The one line that a mistake leaves on stderr."""
    capsys.readouterr()
    assert main(list(map(str, argv))) == 2
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1 and not printed.out, printed
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
    assert "no command `tarin`" in fails(capsys, "tarin")


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
    assert "must define a function" in fails(capsys, "train", out, f"--experiment={empty}")
    known = "no option `epoch`. It has: epochs, seeds, units."
    assert known in fails(capsys, "train", out, f"--experiment={file}", "--set", "epoch=2")
    assert "no option `tsv`" in fails(capsys, "train", out, f"--experiment={file}", "--tsv=a")
    assert "KEY=VALUE" in fails(capsys, "train", out, f"--experiment={file}", "--set", "epochs")
    assert "No such model file" in fails(capsys, "layers", "nowhere.keras")
    assert "--out is empty" in fails(capsys, "train", f"--experiment={file}", "--out=")
    for seeds in ("1.5", "True", "0"):
        said = fails(capsys, "train", out, f"--experiment={file}", "--set", f"seeds={seeds}")
        assert "`seeds` must be" in said
    empty.write_bytes(b"x = 1\0")
    assert "contains null bytes" in fails(capsys, "train", out, f"--experiment={empty}")


def test_an_experiments_file_may_name_its_encoding(tmp_path):
    file = tmp_path / "latin.py"
    text = "# -*- coding: latin-1 -*-\ndef experiment(name='\u00e9'): pass"
    file.write_bytes(text.encode("latin-1"))
    assert options_of(file) == ["name"]


def test_paths_of_another_locale_are_refused(tmp_path, monkeypatch, capsys):
    out = f"--out={tmp_path / 'out'}"
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    said = fails(capsys, "train", out, "--experiment=\udcc3.py")
    assert "reads file names as ascii" in said and "PYTHONUTF8=1" in said
    said = fails(capsys, "train", out, "--experiment=nowhere.py", "--set=name=\udcc3")
    assert "PYTHONUTF8=1" in said
    assert "No such experiment file" in fails(capsys, "train", out, "--experiment=nowhere.py")


@pytest.mark.parametrize("code", ["", "0", "'no data'"])
def test_an_experiment_that_ends_the_process_is_said(tmp_path, capsys, code):
    file = tmp_path / "ends.py"
    file.write_text(f"import sys\n\n\ndef experiment():\n    sys.exit({code})\n")
    said = fails(capsys, "train", f"--out={tmp_path / 'out'}", f"--experiment={file}")
    assert "ends.py:5: this line ended the process" in said


def test_a_locale_without_some_signs_is_no_end(tmp_path, monkeypatch):
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stderr", screen)
    assert main(["layers", str(tmp_path / "modèle.keras")]) == 2
    screen.flush()
    assert rb"mod\xe8le.keras" in screen.buffer.getvalue()


def test_a_run_is_kept_unless_overwritten(run, file, eagerly, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "copy")
    train = ["train", f"--experiment={file}", f"--out={tmp_path / 'copy'}"]
    assert "Give --resume to continue it, or --overwrite" in fails(capsys, *train)
    assert main([*train, "--overwrite", "--set", "units=3"]) == 0
    model = keras.saving.load_model(tmp_path / "copy/student.keras")
    assert model.layers[0].units == 3


def test_the_commands_to_try_next_are_those_of_the_command_line(run, file):
    argv = [f"--experiment={file}", f"--out={run}", "--set", "units=3"]
    lines = train.next_commands(train.parser().parse_args(argv))
    for line, verb in zip(lines.values(), ("report", "tune", "compress"), strict=True):
        python, *module, found = shlex.split(line)[:4]
        assert shutil.which(python) and module == ["-m", "keras_distill"] and found == verb
        parser = importlib.import_module(f"keras_distill.cli.{verb}").parser()
        given = parser.parse_args(shlex.split(line)[4:])
        assert given.experiment == str(file) and given.set == ["units=3"]
        assert verb == "report" or os.path.isfile(given.teacher)


def test_resume_takes_the_runs_own_options_and_file(run, file, tmp_path, capsys):
    out = f"--out={run}"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    resume = ["train", f"--experiment={file}", out, "--resume", "--set"]
    assert "options.units was 2 and is 3 now" in fails(capsys, *resume, "units=3")
    assert "epochs was 1 and is 2 now" in fails(capsys, *resume, "epochs=2")
    changed = tmp_path / "tiny.py"
    changed.write_text(file.read_text() + "# another")
    said = fails(capsys, "train", f"--experiment={changed}", out, "--resume")
    assert "the experiment's file has changed" in said
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    same = ["train", f"--experiment={os.path.relpath(file)}", out, "--resume"]
    assert main([*same, "--set", "units=2"]) == 0  # what is the default anyway


def test_a_signal_to_end_says_how_to_go_on(file, tmp_path, capsys, monkeypatch):
    def told(*arguments, **named):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(experiment.Experiment, "run", told)
    assert main(["train", f"--experiment={file}", f"--out={tmp_path / 'out'}"]) == 143
    assert "--resume" in capsys.readouterr().err


def test_interruption_says_how_to_go_on(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("STOP", "1")
    train = ["train", f"--experiment={file}", f"--out={tmp_path}"]
    assert main(train) == 130
    assert "--resume" in capsys.readouterr().err
    assert (tmp_path / "arms/teacher.keras").exists()


WRONG = {
    "a syntax error": ("def experiment(:", 1, "SyntaxError: "),
    "an unknown name": ("x = 1\ny = x + z", 2, "NameError: name 'z' is not defined"),
    "a missing key": ("def experiment():\n    return {}['a']", 2, "KeyError: 'a'"),
    "a wrong call": ("def experiment():\n    return len(1, 2)", 2, "TypeError: len() takes"),
    "a wrong argument": (
        "from keras_distill import Experiment\ndef experiment():\n    return Experiment('?', "
        "student=1, teacher=1, data=1, optimizer=1, loss=1, epochs=1)",
        3,
        "ValueError: `name` names a folder",
    ),
    "a library's refusal": (
        "import keras\ndef experiment():\n    return keras.layers.Dense(-1)",
        3,
        "ValueError: ",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_error_in_the_experiments_file_names_its_line(what, tmp_path, capsys):
    text, number, said = WRONG[what]
    file = tmp_path / "wrong.py"
    file.write_text(text)
    argv = ["train", f"--experiment={file}", f"--out={tmp_path / 'out'}"]
    assert f"{file}:{number}: {said}" in fails(capsys, *argv)
    assert not (tmp_path / "out").exists()
    assert main([*argv, "--verbosity=1"]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_error_beside_the_experiments_file_names_its_line(tmp_path, capsys):
    (tmp_path / "wrong_images.py").write_text("def load():\n    raise RuntimeError('no images')")
    file = tmp_path / "wrong.py"
    file.write_text("from wrong_images import load\ndef experiment():\n    load()")
    argv = ["evaluate", "--model=m.keras", f"--experiment={file}"]
    (tmp_path / "m.keras").write_text("")
    assert "No such model file" in fails(capsys, *argv)
    train = ["train", f"--experiment={file}", f"--out={tmp_path / 'out'}"]
    assert "wrong_images.py:2: RuntimeError: no images" in fails(capsys, *train)


@pytest.mark.parametrize("bug", [TypeError("a bug"), KeyError("bug"), ValueError("a bug")])
def test_a_bug_keeps_its_traceback(file, tmp_path, monkeypatch, bug):
    """Here what the package calls, by no `raise` of its own, fails."""
    monkeypatch.setattr(experiment, "Runner", Failing(bug))
    with pytest.raises(type(bug)):
        main(["train", f"--experiment={file}", f"--out={tmp_path / 'out'}"])


@pytest.mark.parametrize("error", [PermissionError("no"), ImportError("no matplotlib")])
def test_what_the_machine_refuses_is_said_in_one_line(file, tmp_path, monkeypatch, capsys, error):
    monkeypatch.setattr(experiment, "Runner", Failing(error))
    argv = ["train", f"--experiment={file}", f"--out={tmp_path / 'out'}"]
    assert str(error) in fails(capsys, *argv)


class Failing:
    """Raises an error as a library would, from outside the package and the user's folder."""

    def __init__(self, error):
        self.error = error

    def __call__(self, *arguments, **named):
        raise self.error


def test_what_the_package_raises_on_purpose_is_a_mistake(file, tmp_path, capsys):
    wrong = tmp_path / "none.py"
    wrong.write_text("def experiment():\n    return 1")
    argv = ["train", f"--experiment={wrong}", f"--out={tmp_path / 'out'}"]
    assert "must return an `Experiment`. Received: 1" in fails(capsys, *argv)


def test_evaluate_prints_the_table(run, file, capsys):
    models = [f"--model={run / 'student.keras'}", f"--teacher={run / 'teacher.keras'}"]
    assert main(["evaluate", *models, f"--experiment={file}"]) == 0
    printed = capsys.readouterr().out
    assert "student" in printed and "teacher" in printed and "accuracy" in printed


OWN_LAYER = """
@keras.saving.register_keras_serializable(package="beside_the_experiment")
class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""


def test_evaluate_knows_the_classes_of_the_experiments_file(tmp_path, capsys):
    file = tmp_path / "own.py"
    file.write_text(EXPERIMENT.replace("def model", f"{OWN_LAYER}\ndef model", 1))
    names = {}
    exec(file.read_text(), names)
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), names["Doubled"]()]).save(
        tmp_path / "model.keras"
    )
    keras.saving.get_custom_objects().pop("beside_the_experiment>Doubled")
    argv = ["evaluate", f"--model={tmp_path / 'model.keras'}", f"--experiment={file}"]
    assert main(argv) == 0
    assert "accuracy" in capsys.readouterr().out


def fresh(*argv):
    """The same in a process of its own, where TensorFlow is not imported yet."""
    root = str(pathlib.Path(experiment.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    command = [sys.executable, "-m", "keras_distill", *map(str, argv)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_export_writes_a_saved_model_and_one_line(run, tmp_path):
    done = fresh("export", f"--model={run / 'student.keras'}", f"--out={tmp_path}", "--name=tiny")
    assert done.returncode == 0
    assert (tmp_path / "tiny/1/saved_model.pb").exists()
    assert len(done.stdout.splitlines()) == 1
    assert "differs by at most" in done.stdout and "over 8 random examples" in done.stdout
    assert done.stderr == ""
    again = ["export", f"--model={run / 'student.keras'}", f"--out={tmp_path}", "--name=tiny"]
    assert main([*again, "--version=1"]) == 2  # it is there
    assert os.listdir(tmp_path / "tiny") == ["1"]


def test_a_mistake_in_a_fresh_process_is_one_line(tmp_path):
    (tmp_path / "wrong.py").write_text("import tensorflow\nnothing")
    done = fresh("train", f"--experiment={tmp_path / 'wrong.py'}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "wrong.py:2: NameError: name 'nothing' is not defined" in done.stderr


def test_layers_prints_paths(run, capsys):
    assert main(["layers", str(run / "student.keras")]) == 0
    name = keras.saving.load_model(run / "student.keras").layers[0].name
    assert name in capsys.readouterr().out


@keras.saving.register_keras_serializable("tests")
class Two(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.left = keras.layers.Dense(3, name="left")
        self.right = keras.layers.Dense(3, name="right")

    def call(self, x):
        return self.left(x["a"]) + self.right(x["b"])


def test_layers_of_a_subclassed_model_with_several_inputs(tmp_path, capsys):
    model = Two()
    model({"a": np.ones((2, 4)), "b": np.ones((2, 5))})
    model.save(tmp_path / "two.keras")
    assert main(["layers", str(tmp_path / "two.keras")]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert lines == [[name, "(None, 3)"] for name in ("left", "right", "output")]
    argv = ["export", f"--model={tmp_path / 'two.keras'}", f"--out={tmp_path}", "--name=two"]
    assert main(argv) == 0
    assert "differs by at most" in capsys.readouterr().out


@keras.saving.register_keras_serializable("tests")
class Arguments(Two):
    def call(self, a, b):
        return self.left(a) + self.right(b)


@pytest.mark.filterwarnings("ignore:Model 'arguments")
def test_layers_of_a_model_that_cannot_be_run_says_what_to_do(tmp_path, capsys):
    model = Arguments()
    model(np.ones((2, 4)), np.ones((2, 5)))
    model.save(tmp_path / "arguments.keras")
    said = fails(capsys, "layers", tmp_path / "arguments.keras")
    assert "inputs float32(None, 4)" in said and "in one dict" in said
