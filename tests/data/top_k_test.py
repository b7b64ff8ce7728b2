"""The likeliest classes on disk: what they are, how far off, how many bytes, and who takes them."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_distill import CachedTeacher, Distiller, Supervision, Term, losses
from keras_distill.batch import Batch, TopK
from keras_distill.data import read_targets, write_targets

N, CLASSES, K = 40, 300, 8
X = np.random.default_rng(0).normal(size=(N, 6)).astype("float32")
Y = np.arange(N) % CLASSES
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Sparse(losses.DistillationLoss):
    """Cross entropy with a `TopK` and one bucket for the rest."""

    expects_logits = True
    takes_top_k = True
    seen = None

    def call(self, y_true, y_pred):
        assert "int" in keras.backend.standardize_dtype(y_true.ids.dtype)
        Sparse.seen = y_true.temperature
        log_student = ops.log_softmax(y_pred / y_true.temperature)
        kept = ops.take_along_axis(log_student, ops.cast(y_true.ids, "int32"), axis=-1)
        rest = ops.log(ops.maximum(1 - ops.sum(ops.exp(kept), -1), 1e-9))
        value = ops.sum(ops.exp(y_true.log_probs) * kept, -1) + ops.exp(y_true.log_tail) * rest
        return -value


def net(width=8, seed=0):
    keras.utils.set_random_seed(seed)
    hidden = layers.Dense(width, "relu")
    return keras.Sequential([keras.Input((6,)), hidden, layers.Dense(CLASSES)])


TEACHER = net(32, seed=1)
TEACHER.layers[-1].kernel.assign(TEACHER.layers[-1].kernel * 5)


def dataset(x=X, y=Y, batch=8):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch)


def expected(x, temperature):
    log_probs = tf.nn.log_softmax(TEACHER(x) / temperature).numpy().astype("float64")
    ids = np.argsort(-log_probs)[:, :K]
    top = np.take_along_axis(log_probs, ids, -1)
    return ids, top, np.log(1 - np.exp(top).sum(-1))


@pytest.mark.parametrize("dtype, error", [("float32", 1e-5), ("float16", 4e-3), ("uint8", 3e-2)])
def test_the_likeliest_and_the_tail_come_back(tmp_path, dtype, error):
    write_targets(TEACHER, dataset(), tmp_path, top_k=K, temperature=2.0, dtype=dtype, verbose=0)
    x, y = next(iter(read_targets(dataset().unbatch().shuffle(N).batch(10), tmp_path)))
    top = y.targets["output"]
    assert isinstance(top, TopK) and top.ids.dtype == "int32"
    np.testing.assert_array_equal(top.temperature, np.full(10, 2.0))
    ids, log_probs, tail = expected(x, 2.0)
    order, there = np.argsort(ids), np.argsort(top.ids)
    np.testing.assert_array_equal(np.take_along_axis(ids, order, -1),
                                  np.take_along_axis(top.ids.numpy(), there, -1))  # fmt: skip
    np.testing.assert_allclose(np.take_along_axis(top.log_probs.numpy(), there, -1),
                               np.take_along_axis(log_probs, order, -1), atol=error)  # fmt: skip
    np.testing.assert_allclose(top.log_tail, tail, atol=1e-4)


@pytest.mark.parametrize("dtype, limit", [("float16", 560), ("uint8", 350)])
def test_bytes_of_a_token_of_a_large_vocabulary(tmp_path, dtype, limit):
    words, tokens = 151_936, 4
    logits = 3 * tf.random.stateless_normal((2, tokens, words), [0, 1])
    data = tf.data.Dataset.from_tensors(np.arange(2, dtype="int64"))
    cache = write_targets(lambda x: tf.gather(logits, x), data, tmp_path, top_k=128, dtype=dtype,
                          verbose=0, fingerprints={"teacher": "a table"})  # fmt: skip
    assert cache.forms["output"].bytes_a_row <= limit * tokens
    records = sum(file.stat().st_size for file in tmp_path.glob("*.tfrecord"))
    assert records <= 2 * (limit * tokens + 200)  # names, key and checksums once an example
    _, y = next(iter(read_targets(data, tmp_path)))
    top = y.targets["output"]
    assert top.ids.shape == (2, tokens, 128)
    exact = tf.gather(tf.nn.log_softmax(logits), top.ids, batch_dims=2)
    assert np.abs(top.log_probs - exact).max() < 0.02
    total = np.exp(top.log_probs).sum(-1) + np.exp(top.log_tail)
    np.testing.assert_allclose(total, 1, atol=2e-3)


def trained(data, loss=None, **settings):
    student = net()
    distiller = Distiller(
        student, teacher=CachedTeacher(), terms=[Term(loss or Sparse(name="sparse"))]
    )
    distiller.compile(keras.optimizers.SGD(0.1), CE, **settings)
    logs = distiller.fit(data, epochs=2, verbose=0).history
    return logs, distiller


@pytest.mark.parametrize("settings", [{}, {"jit_compile": True}, {"run_eagerly": True},
                                      {"steps_per_execution": 2}])  # fmt: skip
def test_trains_from_the_cache(tmp_path, settings):
    write_targets(TEACHER, dataset(), tmp_path, top_k=K, temperature=2.0, verbose=0)
    logs, _ = trained(read_targets(dataset(), tmp_path), **settings)
    assert logs["sparse"][1] < logs["sparse"][0]
    assert Sparse.seen == 2.0 and isinstance(Sparse.seen, float)


def test_a_loss_that_takes_logits_only_is_refused(tmp_path):
    write_targets(TEACHER, dataset(), tmp_path, top_k=K, verbose=0)
    with pytest.raises(ValueError, match="needs whole logits"):
        trained(read_targets(dataset(), tmp_path), "mse")


def top_of(batch, temperature=1.0, k=K):
    ids = np.tile(np.arange(k), (batch, 1))
    log_probs = np.full((batch, k), np.log(0.5 / k), "float32")
    return TopK(ids, log_probs, np.full(batch, np.log(0.5), "float32"), temperature)


def test_a_later_batch_of_another_temperature_stops_the_training():
    warm = [top_of(8, np.full(8, t, "float32")) for t in (2.0, 2.0, 4.0)]
    batches = [tf.data.Dataset.from_tensors((X[:8], Supervision(Y[:8], t))) for t in warm]
    data = batches[0].concatenate(batches[1]).concatenate(batches[2])
    with pytest.raises(ValueError, match="Not finite.*output of `teacher`"):
        trained(data)
    mixed = top_of(8, np.arange(8, dtype="float32") + 1)
    with pytest.raises(ValueError, match="one temperature"):
        trained(tf.data.Dataset.from_tensors((X[:8], Supervision(Y[:8], mixed))))


@pytest.mark.parametrize("filler", [0.0, np.nan])
def test_padding_has_no_temperature(filler):
    warm = top_of(8, np.where(np.arange(8) < 6, np.float32(2.0), np.float32(filler)))
    weights = np.float32(np.arange(8) < 6)
    data = tf.data.Dataset.from_tensors((X[:8], Supervision(Y[:8], warm), weights))
    logs, _ = trained(data)
    assert np.isfinite([logs["loss"], logs["sparse"]]).all()


def test_masked_rows_may_hold_anything_and_ids_stay_integers():
    top = keras.tree.map_structure(tf.constant, top_of(4))._replace(temperature=1.0)
    bad = top._replace(log_probs=tf.concat([top.log_probs[:3], top.log_probs[3:] * np.nan], 0))
    logits = tf.constant(TEACHER(X[:4]))
    weights = tf.constant([1.0, 2.0, 1.0, 0.0])
    values = [Term(Sparse())({"output": logits}, {"output": t}, Batch(X[:4], None, weights, None))
              for t in (top, bad)]  # fmt: skip
    np.testing.assert_array_equal(values[0][0], values[1][0])
    assert values[0][0][3] == 0


def test_shapes_that_do_not_fit_are_refused():
    top = keras.tree.map_structure(tf.constant, top_of(4))._replace(temperature=1.0)
    batch = Batch(X[:4], None, None, None)
    with pytest.raises(ValueError, match="different shapes.*tail"):
        Term(Sparse())({"output": tf.zeros((4, 3, CLASSES))}, {"output": top}, batch)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_the_divergence_with_many_classes_is_nearly_that_of_all(tmp_path, dtype):
    write_targets(TEACHER, dataset(), tmp_path, top_k=250, temperature=2.0, dtype=dtype, verbose=0)
    logs, _ = trained(read_targets(dataset(), tmp_path), losses.KLDivergence(2.0, name="sparse"))
    write_targets(TEACHER, dataset(), tmp_path / "whole", dtype="float32", verbose=0)
    whole = read_targets(dataset(), tmp_path / "whole")
    exact, _ = trained(whole, losses.KLDivergence(2.0, name="sparse"))
    np.testing.assert_allclose(logs["sparse"], exact["sparse"], rtol=2e-2)
    assert max(logs["sparse"]) < min(exact["sparse"])  # classes in one bucket differ no more


def test_the_guide_names_the_losses_that_take_it():
    guide = pathlib.Path(__file__).parents[2] / "docs" / "cached_targets.md"
    told = re.search(r"A `TopK` is taken by(.*?):", guide.read_text(encoding="utf-8"), re.S)[1]
    taking = {name for name in losses.__all__ if getattr(getattr(losses, name), "takes_top_k", 0)}
    assert {*re.findall(r"`(\w+)`", told)} == taking


def test_another_temperature_than_the_cached_one_is_refused(tmp_path):
    write_targets(TEACHER, dataset(), tmp_path, top_k=K, temperature=2.0, verbose=0)
    with pytest.raises(ValueError, match="`TopK` at 2.0"):
        trained(read_targets(dataset(), tmp_path), losses.KLDivergence(4.0))
