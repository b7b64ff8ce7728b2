"""The pipeline's cache is the one that a single process writes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.data import read_targets, write_targets, write_targets_with_beam

beam = pytest.importorskip("apache_beam")

N = 40


def dataset(part=0, parts=1):
    import numpy as np
    import tensorflow as tf

    x = np.random.default_rng(0).normal(size=(N, 6)).astype("float32")
    return tf.data.Dataset.from_tensor_slices(x).shard(parts, part).batch(8)


@pytest.fixture
def teacher(tmp_path):
    path = str(tmp_path / "teacher.keras")
    keras.Sequential([keras.Input((6,)), keras.layers.Dense(5)]).save(path)
    return path


def test_parts_of_a_pipeline_make_one_cache(tmp_path, teacher):
    arguments = {"dtype": "float32", "rows_per_shard": 8}
    cache = write_targets_with_beam(teacher, dataset, tmp_path / "a", parts=3, **arguments)
    model = keras.saving.load_model(teacher)
    write_targets(model, dataset(), tmp_path / "b", verbose=0, **arguments)
    assert cache.rows == N and len(cache.shards) == 6
    for one, other in zip(read_targets(dataset(), tmp_path / "a"),
                          read_targets(dataset(), tmp_path / "b")):  # fmt: skip
        np.testing.assert_allclose(one[1].targets["output"], other[1].targets["output"], atol=1e-6)
    again = write_targets_with_beam(teacher, dataset, tmp_path / "a", parts=3, **arguments)
    assert again.rows == N


def test_a_dataset_must_be_a_function(tmp_path, teacher):
    with pytest.raises(TypeError, match="function"):
        write_targets_with_beam(teacher, tf.data.Dataset.range(3), tmp_path, parts=2)
