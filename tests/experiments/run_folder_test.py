"""A run's folder: whose its files are, what is damaged, and what is never deleted."""

import errno
import json
import os

import keras
import pytest
from full_disk import full_disk

from keras_distill.experiments.run_folder import RunFolder

SETTINGS = {"seeds": [0], "epochs": 2}
DAMAGE = [b"", b"null", b"[]", b"{}", b'{"seeds"', b"\xff"]


def model():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


@pytest.fixture
def run(tmp_path):
    """A run with one trained model."""
    folder = RunFolder(tmp_path / "run")
    folder.open(SETTINGS)
    folder.keep("alone-0", model(), {"history": {}})
    return folder


@pytest.mark.parametrize("content", DAMAGE)
def test_a_damaged_file_is_named(run, content):
    (run.path / "arms/alone-0.json").write_bytes(content)
    with pytest.raises(ValueError, match="alone-0.json is damaged"):
        run.is_trained("alone-0")
    (run.path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match="run.json is damaged"):
        run.check(SETTINGS, resume=True)


def test_a_damaged_model_is_named(run):
    file = run.file("alone-0")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="alone-0.keras cannot be loaded"):
        run.model("alone-0")


@pytest.mark.parametrize("error", [RuntimeError, AttributeError, EOFError])
def test_whatever_keras_raises_of_a_damaged_model(run, monkeypatch, error):
    """h5py raises RuntimeErrors, and Keras what its own code meets in a wrong config."""

    def load_model(*args, **kwargs):
        raise error("bad symbol table node signature")

    monkeypatch.setattr(keras.saving, "load_model", load_model)
    with pytest.raises(ValueError, match="alone-0.keras cannot be loaded.*bad symbol"):
        run.model("alone-0")


def test_what_another_run_wrote_is_not_taken(run, tmp_path):
    other = RunFolder(tmp_path / "other")
    other.open({**SETTINGS, "epochs": 7})
    assert run.is_trained("alone-0") and not other.is_trained("alone-0")
    for name in ("alone-0.json", "alone-0.keras"):
        (other.path / "arms" / name).write_bytes((run.path / "arms" / name).read_bytes())
    assert not other.is_trained("alone-0")
    again = RunFolder(run.path)
    again.open({**SETTINGS, "seeds": [0, 1]}, resume=True)
    assert again.is_trained("alone-0") and again.record("alone-0")["history"] == {}
    again.open(SETTINGS, overwrite=True)
    assert again.owner != json.loads((other.path / "run.json").read_text())["run"]


def test_the_second_process_is_refused(run):
    with run.alone(), pytest.raises(RuntimeError, match="in use by another process"):
        with RunFolder(run.path).alone():
            pass
    with RunFolder(run.path).alone():
        pass


def test_what_is_given_is_no_part_of_the_run(tmp_path):
    cache = tmp_path / "targets"
    cache.mkdir()
    (cache / "header.json").write_text("{}")
    folder = RunFolder(tmp_path, [cache])
    folder.check(SETTINGS)
    folder.open(SETTINGS)
    folder.open(SETTINGS, overwrite=True)
    assert (cache / "header.json").exists()
    with pytest.raises(FileExistsError, match="already holds a run"):
        RunFolder(tmp_path).check(SETTINGS)


def test_what_is_given_and_would_be_deleted_is_refused(run):
    inside = RunFolder(run.path, [run.file("alone-0")])
    inside.check(SETTINGS, resume=True)
    with pytest.raises(ValueError, match="would delete .*alone-0.keras"):
        inside.open(SETTINGS, overwrite=True)
    assert run.is_trained("alone-0")


def test_a_file_in_the_folders_place_is_said(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in ("file", "file/run"):
        with pytest.raises(NotADirectoryError, match="is a file, or a path inside a file"):
            RunFolder(tmp_path / path).open(SETTINGS)
        with pytest.raises(NotADirectoryError, match="is a file, or a path inside a file"):
            with RunFolder(tmp_path / path).alone():  # which comes before `open`
                pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_said(tmp_path, monkeypatch, number):
    def refused(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refused)
    with pytest.raises(OSError, match=f"run cannot be written: {os.strerror(number)}"):
        RunFolder(tmp_path / "run").open(SETTINGS)
    assert not (tmp_path / "run/run.json").exists()


def test_a_disk_that_is_full_later_is_said_and_leaves_no_model(run):
    with full_disk(), pytest.raises(OSError, match="alone-1.keras"):
        run.keep("alone-1", model(), {})
    assert not run.is_trained("alone-1") and run.is_trained("alone-0")
    assert not [name for name in os.listdir(run.path / "arms") if "unfinished" in name]
    run.keep("alone-1", model(), {})
    assert run.is_trained("alone-1")
