"""The examples' data and experiments, at the smallest size."""

import gzip
import pathlib

import numpy as np
import pytest

from keras_distill.experiments.file import load_experiment

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture
def images(example):
    return example("images")


@pytest.fixture
def folder(tmp_path):
    """Four idx files of a few images."""
    for prefix, count in (("train", 30), ("t10k", 10)):
        pixels = np.arange(count * 28 * 28, dtype="uint8").reshape(count, 28, 28)
        labels = (np.arange(count) % 10).astype("uint8")
        for name, array in ((f"{prefix}-images-idx3", pixels), (f"{prefix}-labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (tmp_path / f"{name}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    return tmp_path


def test_digits_are_split_once_and_for_all(images):
    splits = images.digits()
    assert {split: len(x) for split, (x, _) in splits.items()} == {
        "train": 797,
        "valid": 400,
        "test": 600,
    }
    assert all(set(labels) == set(range(10)) for _, labels in splits.values())
    assert np.array_equal(splits["test"][0], images.digits()["test"][0])


def test_idx_files(images, folder):
    splits = images.from_idx(folder, valid=10)
    assert splits["train"][0].shape == (20, 28, 28, 1)
    assert splits["valid"][1].tolist() == list(range(10))
    assert splits["test"][0].max() <= 1


def test_what_is_no_idx_file(images, tmp_path):
    with pytest.raises(FileNotFoundError, match="--data"):
        images.from_idx(tmp_path)
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"text"))
    with pytest.raises(ValueError, match="not an idx file"):
        images.read_idx(tmp_path / "x.gz")


@pytest.mark.parametrize("name", ["quickstart", "fashion_mnist"])
def test_models_and_data(name, folder, monkeypatch, images):
    read = images.from_idx
    monkeypatch.setattr(images, "from_idx", lambda folder: read(folder, valid=10))
    experiment = load_experiment(EXAMPLES / f"{name}.py", {"data": str(folder)})
    teacher, student = experiment.teacher(), experiment.student()
    x, _ = next(iter(experiment.data("train")))
    assert teacher(x).shape == student(x).shape == (20, 10)


@pytest.mark.parametrize("name", ["quickstart", "fashion_mnist"])
def test_the_student_is_thirty_times_smaller(name, folder, monkeypatch, images):
    read = images.from_idx
    monkeypatch.setattr(images, "from_idx", lambda folder: read(folder, valid=10))
    options = {} if name == "quickstart" else {"data": str(folder)}
    experiment = load_experiment(EXAMPLES / f"{name}.py", options)
    assert experiment.student().count_params() * 30 <= experiment.teacher().count_params()
