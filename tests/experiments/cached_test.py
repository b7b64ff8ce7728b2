"""An experiment whose students train from the cache ends as with the live teacher."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Experiment, Term
from keras_distill.data import TargetsOnDisk, write_targets


def model(width):
    hidden = keras.layers.Dense(width, "relu", name="hidden")
    return keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(3)])


def data(split):
    generator = np.random.default_rng(len(split))
    x = generator.normal(size=(24, 4)).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, x[:, :3].argmax(-1)))
    return (dataset.shuffle(24) if split == "train" else dataset).batch(8)


def experiment(**changes):
    return Experiment("tiny", student=lambda: model(2), teacher=lambda: model(8), data=data,
                      optimizer=lambda: keras.optimizers.Adam(0.01), epochs=2, seeds=1,
                      loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                      **changes)  # fmt: skip


def weights(folder, key):
    return keras.saving.load_model(folder / "arms" / f"{key}.keras", compile=False).get_weights()


def test_students_are_those_of_the_live_teacher(tmp_path):
    def terms(student, teacher):
        hint = Term("mse", student="hidden", teacher="hidden", name="hint", projector="auto")
        return [Term("mse"), hint]

    experiment(terms=terms).run(tmp_path / "live")
    experiment(terms=terms).run(tmp_path / "cached", cache=tmp_path / "targets")
    cache = TargetsOnDisk(tmp_path / "targets")
    assert list(cache.forms) == ["output", "hidden"] and cache.rows == 24
    for key in ("teacher", "alone-0", "distilled-0"):
        for one, other in zip(weights(tmp_path / "live", key), weights(tmp_path / "cached", key)):
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_cache_of_another_teacher_or_place_is_refused(tmp_path):
    other = tmp_path / "other"
    write_targets(model(8), data("train"), other, verbose=0)
    with pytest.raises(ValueError, match="other.*was written with other settings.*weights"):
        experiment().run(tmp_path / "run", cache=other)
