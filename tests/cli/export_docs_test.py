"""The commands of the pages on serving, phones and browsers run, on a small run."""

import importlib.util
import pathlib
import re
import shlex

import keras
import numpy as np
import pytest

from keras_distill.cli.main import main
from keras_distill.export import formats

ROOT = pathlib.Path(__file__).parents[2]
PAGES = ("serving.md", "phones.md", "browser.md")
BLOCK = re.compile(r"^```bash([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands():
    for page in PAGES:
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        for kind, block in BLOCK.findall(text):
            assert kind in ("", " no-run"), page
            if not kind:
                yield from block.splitlines()


def network(width, name):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Flatten()(keras.layers.Conv2D(width, 3, activation="relu")(x))
    return keras.Model(inputs, keras.layers.Dense(10)(x), name=name)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run and what the commands name beside it."""
    folder = tmp_path_factory.mktemp("place")
    run = folder / "runs" / "quickstart"
    run.mkdir(parents=True)
    network(2, "student").save(run / "student.keras")
    network(4, "teacher").save(run / "teacher.keras")
    images = np.random.default_rng(0).random((16, 8, 8, 1)).astype("float32")
    targets = network(2, "student").predict(images, verbose=0).argmax(-1)
    np.savez(run / "examples.npz", inputs=images, targets=targets)
    (folder / "labels.txt").write_text("\n".join("0123456789"))
    return folder


@pytest.mark.parametrize("command", [*commands()])
def test_a_command_of_the_docs_runs(command, place, monkeypatch, capsys):
    words = shlex.split(command)
    if words[:3] != ["python", "-m", "keras_distill"]:  # it has a test of its own
        script, *options = words[1:]
        source = (ROOT / script).read_text(encoding="utf-8")
        assert all(f'"{option.split("=")[0]}"' in source for option in options)
        return
    monkeypatch.chdir(place)
    kinds = re.search(r"--format=(\S+)", command)
    for kind in kinds[1].split(",") if kinds else ():
        missing = [
            each for each in formats.FORMATS[kind].packages if not importlib.util.find_spec(each)
        ]
        if missing:
            pytest.skip(f"{', '.join(missing)} is not installed: pip install keras-distill[export]")
    assert main([*words[3:], "--agreement=0"]) == 0
    printed = capsys.readouterr()
    assert "reloaded, differs by at most" in printed.out and "over 16 examples" in printed.out
