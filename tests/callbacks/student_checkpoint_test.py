"""The best student is on the disk, whole, and nothing else."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_distill import Distiller
from keras_distill.callbacks import StudentCheckpoint, TeacherAgreement

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = np.arange(32) % 3
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net(width=4, seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((6,)), layers.Dense(width), layers.Dense(3)])


def made():
    distiller = Distiller(net(), teacher=net(8, seed=1))
    distiller.compile("adam", CE, metrics=["accuracy"])
    return distiller


class Scores(keras.callbacks.Callback):
    """Logs given scores, and keeps the student's weights of each epoch."""

    def __init__(self, *scores):
        super().__init__()
        self.scores, self.weights = scores, []

    def on_epoch_end(self, epoch, logs=None):
        if self.scores[epoch] is not None:
            logs["score"] = self.scores[epoch]
        self.weights.append(self.model.student.get_weights())


def fitted(distiller, *callbacks, epochs=1, **options):
    return distiller.fit(
        X, Y, epochs=epochs, verbose=0, callbacks=list(callbacks), **options
    ).history


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("mode, best", [("max", 1), ("min", 2)])
def test_the_best_epoch_is_kept(tmp_path, mode, best):
    scores = Scores(0.5, 0.9, 0.1, float("nan"))
    path = tmp_path / "new" / "best.keras"
    distiller = made()
    fitted(distiller, scores, StudentCheckpoint(path, "score", mode), epochs=4)
    student = keras.saving.load_model(path)
    assert_same(student.get_weights(), scores.weights[best])
    assert student.count_params() == distiller.student.count_params()
    assert [each.name for each in path.parent.iterdir()] == ["best.keras"]


def test_a_name_for_every_epoch_and_weights_alone(tmp_path):
    path = tmp_path / "{epoch:02d}-{score:.1f}.weights.h5"
    scores, distiller = Scores(0.5, 0.9), made()
    every = StudentCheckpoint(path, save_best_only=False)
    fitted(distiller, scores, every, epochs=2)
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "01-0.5.weights.h5", "02-0.9.weights.h5",
    ]  # fmt: skip
    student = net(seed=7)
    student.load_weights(tmp_path / "01-0.5.weights.h5")
    assert_same(student.get_weights(), scores.weights[0])


def test_terms_validation_and_agreement_can_be_watched(tmp_path):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    watched = {"kl_divergence": "auto", "val_accuracy": "auto", "teacher_agreement": "auto"}
    savers = [StudentCheckpoint(tmp_path / f"{n}.keras", n, mode) for n, mode in watched.items()]
    fitted(made(), TeacherAgreement(data), *savers, validation_data=(X, Y))
    assert {path.stem for path in tmp_path.iterdir()} == {*watched}
    assert [saver.mode for saver in savers] == ["min", "max", "max"]


def test_an_interrupted_write_leaves_the_last_good_file(tmp_path):
    path, distiller = tmp_path / "best.keras", made()
    fitted(distiller, Scores(0.5), StudentCheckpoint(path, "score", "max"))
    before = path.read_bytes()

    def cut(partial, **_):
        with open(partial, "w") as file:
            file.write("half")
        raise OSError("disk full")

    distiller.student.save = cut
    with pytest.raises(OSError, match="disk full"):
        fitted(distiller, Scores(0.9), StudentCheckpoint(path, "score", "max"))
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["best.keras"]


def test_two_processes_may_have_one_path(tmp_path):
    """The second saves while the first one does, and neither takes the other's file away."""
    path, (one, other) = tmp_path / "best.keras", (made(), made())
    savers = [StudentCheckpoint(path, save_best_only=False) for _ in range(2)]
    for saver, distiller in zip(savers, (one, other)):
        saver.set_model(distiller)
    save = one.student.save

    def meanwhile(partial, **options):
        save(partial, **options)
        savers[1].on_epoch_end(0, {})

    one.student.save = meanwhile
    savers[0].on_epoch_end(0, {})
    assert_same(keras.saving.load_model(path).get_weights(), one.student.get_weights())
    assert [each.name for each in tmp_path.iterdir()] == ["best.keras"]


def test_a_threshold_and_a_missing_score(tmp_path):
    path = tmp_path / "best.keras"
    saver = StudentCheckpoint(path, "score", "max", initial_value_threshold=0.7)
    with pytest.warns(UserWarning, match="no `score`.*label_loss"):
        fitted(made(), Scores(0.5, None), saver, epochs=2)
    assert not path.exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("best.h5",), r"\.keras.*best\.h5"),
        (("best.keras", "score"), "`score`.*Give `mode="),
        (("best.keras", "score", "most"), "mode.*most"),
    ],
)
def test_refused_when_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        StudentCheckpoint(*arguments)


def test_an_unknown_name_in_the_path(tmp_path):
    saver = StudentCheckpoint(tmp_path / "{nothing}.keras", "loss")
    with pytest.raises(ValueError, match="nothing.*label_loss"):
        fitted(made(), saver)
