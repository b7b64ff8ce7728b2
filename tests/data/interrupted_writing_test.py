"""A cache whose writing is killed goes on, with nothing lost or doubled."""

import itertools
import os
import signal
import sys

import children
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import _files
from keras_distill.data import read_targets, shards, write_targets

N = 50


def dataset():
    x = np.random.default_rng(0).normal(size=(N, 6)).astype("float32")
    return tf.data.Dataset.from_tensor_slices(x).batch(8)


def teacher():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(5)])


def kill_at(moment, path):
    """Writes, and kills its process before the step of this number."""
    steps = itertools.count(1)

    def killing(function):
        def maybe(*args, **kwargs):
            if next(steps) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return maybe

    _files.rename = killing(_files.rename)
    shards.Writer.add = killing(shards.Writer.add)
    written(path)


def written(path):
    return write_targets(teacher(), dataset(), path, dtype="float32", rows_per_shard=16,
                         verbose=0)  # fmt: skip


def test_the_second_writer_of_a_part_is_refused(tmp_path):
    with _files.alone(shards.in_use(tmp_path / "cache", 0, 1), "It"):
        with pytest.raises(RuntimeError, match="Part 0 of 1 of .*cache is in use by another"):
            written(tmp_path / "cache")


@pytest.mark.parametrize("at", [1, 19, 40])
def test_killed_at_any_moment_it_goes_on(tmp_path, at):
    child = children.start(__file__, at, tmp_path / "cache")
    child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL
    resumed = written(tmp_path / "cache")
    assert resumed.rows == N
    resumed.verify()
    assert not list(tmp_path.rglob("*unfinished*.tfrecord"))
    whole = written(tmp_path / "whole")
    read = [np.concatenate([y.targets["output"] for _, y in read_targets(dataset(), cache)])
            for cache in (resumed, whole)]  # fmt: skip
    np.testing.assert_array_equal(*read)


if __name__ == "__main__":
    kill_at(int(sys.argv[1]), sys.argv[2])
