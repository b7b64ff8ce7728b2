"""An experiment on a few random points: what it writes, repeats, refuses and resumes."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Experiment


def model(width):
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(width, "relu"), keras.layers.Dense(3)]
    )


def data(split):
    generator = np.random.default_rng(len(split))
    x = generator.normal(size=(24, 4)).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, x[:, :3].argmax(-1)))
    return (dataset.shuffle(24) if split == "train" else dataset).batch(8)


def tiny(**changes):
    arguments = {
        "student": lambda: model(2),
        "teacher": lambda: model(8),
        "data": data,
        "optimizer": lambda: keras.optimizers.Adam(0.01),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "epochs": 1,
        "seeds": 1,
    }
    return Experiment("tiny", **{**arguments, **changes})


def weights(folder, key):
    return keras.saving.load_model(folder / "arms" / f"{key}.keras", compile=False).get_weights()


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


class Interrupt(keras.callbacks.Callback):
    """Ctrl-C in the `at`-th fit."""

    fits = 0

    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_train_begin(self, logs=None):
        Interrupt.fits += 1

    def on_train_batch_end(self, batch, logs=None):
        if Interrupt.fits == self.at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, tiny().run(folder)


def test_writes_everything(run):
    folder, results = run
    for name in ("report.html", "report.json", "student.keras", "teacher.keras"):
        assert (folder / name).is_file(), name
    assert (folder / "serving/tiny/1/saved_model.pb").is_file()
    assert not list(folder.rglob("*.unfinished*"))
    assert set(results["arms"]) == {"teacher", "alone", "distilled"}
    assert json.loads((folder / "report.json").read_text())["name"] == "tiny"
    assert results["arms"]["distilled"]["history"][0]["val_accuracy"]
    assert "kl_to_teacher" in results["arms"]["alone"]["seeds"][0]


def test_both_arms_get_the_same_weights_and_data(tmp_path, run):
    experiment = tiny(alpha=0.0)
    experiment._open(tmp_path, False, False)
    experiment._train_teacher(tmp_path, None)
    experiment._train_student(tmp_path, "alone", 0, None)
    experiment._train_student(tmp_path, "distilled", 0, None)
    assert same(weights(tmp_path, "alone-0"), weights(tmp_path, "distilled-0"))
    assert not same(weights(run[0], "alone-0"), weights(run[0], "distilled-0"))


def test_resumed_run_ends_as_an_uninterrupted_one(tmp_path, run):
    Interrupt.fits = 0
    with pytest.raises(KeyboardInterrupt):
        tiny().run(tmp_path, callbacks=lambda: [Interrupt(at=3)])
    assert (tmp_path / "arms/alone-0.json").exists()
    assert not (tmp_path / "arms/distilled-0.json").exists()
    tiny().run(tmp_path, resume=True, callbacks=lambda: [Interrupt(at=0)])
    assert Interrupt.fits == 4
    assert same(weights(tmp_path, "distilled-0"), weights(run[0], "distilled-0"))


def test_refuses_a_folder_with_a_run(run):
    with pytest.raises(FileExistsError, match="already holds a run"):
        tiny().run(run[0])


def test_refuses_to_resume_other_settings(run):
    with pytest.raises(ValueError, match="other settings"):
        tiny(epochs=2).run(run[0], resume=True)


def test_overwriting_keeps_what_is_not_the_runs(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "report.json").write_text("{}")
    tiny()._open(tmp_path, overwrite=True, resume=False)
    assert (tmp_path / "notes.txt").exists()
    assert not (tmp_path / "report.json").exists()


def test_refuses_a_model_where_a_function_is_due():
    with pytest.raises(TypeError, match="`student` must be a function"):
        tiny(student=model(2))


def test_refuses_no_seeds():
    with pytest.raises(ValueError, match="at least one seed"):
        tiny(seeds=0)
