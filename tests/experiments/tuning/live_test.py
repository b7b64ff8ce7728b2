"""A student that stays compiled between two pieces, against one that goes on from its file."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Experiment, Term, recipes
from keras_distill.experiments.tuning import live
from keras_distill.experiments.tuning.trial import Trial


@keras.saving.register_keras_serializable(package="live_test")
class GlobalNoise(keras.layers.Layer):
    """Draws from the seeds of Keras itself, as no layer of Keras does."""

    def call(self, x, training=None):
        return x + keras.random.normal(keras.ops.shape(x)) if training else x


def network(width, *more):
    hidden = [keras.layers.Dense(width, "relu", name="hidden"), keras.layers.BatchNormalization()]
    return keras.Sequential(
        [keras.Input((4,)), *hidden, keras.layers.Dropout(0.4), *more, keras.layers.Dense(3)]
    )


def data(split):
    x = np.random.default_rng(len(split)).normal(size=(32, 4)).astype("float32")
    batches = tf.data.Dataset.from_tensor_slices((x, x[:, :3].argmax(-1)))
    return (batches.shuffle(32) if split == "train" else batches).batch(8)


def terms(student, teacher):
    projector = keras.layers.Dense(8)
    return [Term("mse", student="hidden", teacher="hidden", projector=projector), *recipes.hinton()]


def experiment(*more):
    return Experiment("tiny", student=lambda: network(4, *more), teacher=lambda: network(8),
        data=data, terms=terms,
        optimizer=lambda: keras.optimizers.Adam(0.01), epochs=6,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))  # fmt: skip


def arrays(file):
    """All numbers of a file of weights, by name."""
    found = {}
    with h5py.File(file) as opened:
        opened.visititems(found.__setitem__)
        return {name: np.asarray(each) for name, each in found.items()
                if isinstance(each, h5py.Dataset)}  # fmt: skip


def trained(folder, made, arm, **given):
    folder.mkdir()
    keras.utils.set_random_seed(0)
    teacher = network(8)
    trial = Trial(folder, "000", arm, 5, **given)
    for begin, end in ((0, 1), (1, 3), (3, 4)):
        trial.train(lambda: made, begin, end, teacher, None)
        if not given:
            trial.live.clear()
    return trial.record(4), arrays(folder / "000-5-4.weights.h5")


@pytest.mark.parametrize("arm", ["alone", "distilled"])
def test_what_stays_compiled_ends_as_what_was_read(tmp_path, arm):
    made, kept = experiment(), live.Live()
    (record, ours), (other, theirs) = (
        trained(tmp_path / name, made, arm, **given)
        for name, given in (("kept", {"live": kept}), ("read", {}))
    )
    assert kept.take("000-5-4") is not None and kept.take("000-5-3") is None
    assert len(ours) > 10 and ours.keys() == theirs.keys()
    assert record["nll"] == other["nll"]
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name], err_msg=name)


def test_a_student_of_keras_own_seeds_is_read_from_its_file(tmp_path):
    kept = live.Live()
    trial = Trial(tmp_path, "000", "alone", 0, live=kept)
    trial.train(lambda: experiment(GlobalNoise()), 0, 1, None, None)
    assert kept.take("000-0-1") is None


def test_large_students_are_let_go_and_their_memory_is_collected(monkeypatch):
    one = network(4)
    monkeypatch.setattr(live, "PARAMETERS", 2 * one.count_params())
    kept = live.Live()
    for key in "abc":
        kept.keep(key, one, one)
    assert kept.take("a") is None and kept.take("b") and kept.take("b") is None
    for _ in range(live.PIECES - 1):
        kept.trained(one)
    assert not kept.is_due()
    kept.trained(one)
    assert kept.is_due() and not kept.is_due()
    monkeypatch.setattr(live, "LET_GO", one.count_params() - 1)
    kept.trained(one)
    assert kept.is_due()
