"""`cache` from the command line: written, verified, described, trained from."""

import pytest

from keras_distill.cli.main import main

EXPERIMENT = """
import keras, numpy as np, tensorflow as tf
from keras_distill import Experiment

def model(width):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(width), keras.layers.Dense(6)])

def data(split):
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, x.argmax(-1))).batch(8)

def experiment():
    return Experiment("tiny", student=lambda: model(2), teacher=lambda: model(8), data=data,
        optimizer=keras.optimizers.Adam, epochs=1, seeds=1,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with an experiment's file, and a run whose student learned from a cache."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "tiny.py").write_text(EXPERIMENT)
    train = ["train", f"--experiment={folder / 'tiny.py'}", f"--out={folder / 'run'}"]
    assert main([*train, f"--cache={folder / 'targets'}"]) == 0
    return folder


def cache(made, *argv):
    chosen = [f"--experiment={made / 'tiny.py'}", f"--teacher={made / 'run/teacher.keras'}"]
    return main(["cache", *map(str, argv), *chosen])


def test_the_run_wrote_its_cache(made, capsys):
    assert main(["cache", "info", str(made / "targets")]) == 0
    printed = capsys.readouterr().out
    assert "16 rows in 1 shards" in printed and "output" in printed and "teacher" in printed


def test_an_estimate_comes_before_the_writing(made, tmp_path, capsys):
    assert cache(made, "write", tmp_path / "new", "--top_k=2", "--dtype=float16") == 0
    printed = capsys.readouterr().out
    assert "At most 16 rows" in printed.splitlines()[0]
    assert cache(made, "verify", tmp_path / "new") == 0
    printed = capsys.readouterr().out
    assert "Every record is intact" in printed and "largest_error" in printed


def test_parts(made, tmp_path, capsys):
    assert cache(made, "write", tmp_path / "new", "--shard=0/2") == 0
    assert "Other parts are not written yet" in capsys.readouterr().out
    assert cache(made, "write", tmp_path / "new", "--shard=1/2") == 0
    assert "16 rows" in capsys.readouterr().out


def test_mistakes_are_said_in_one_line(made, tmp_path, capsys):
    assert main(["cache", "info", str(tmp_path)]) == 2
    assert "holds no cache of targets" in capsys.readouterr().err
    assert main(["cache", "verify", str(made / "targets")]) == 2
    assert "needs --experiment" in capsys.readouterr().err
    assert cache(made, "write", made / "targets", "--dtype=float16") == 2
    assert "other settings (paths.output.dtype" in capsys.readouterr().err
