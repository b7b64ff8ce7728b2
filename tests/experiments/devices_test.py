"""Strategies by name, and an experiment under one."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
from experiment_test import same, tiny, weights

from keras_distill.experiments import experiment
from keras_distill.experiments.devices import Devices, strategy_by_name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("many", "must be one of none, mirrored"),
        ("multi_worker", "needs the environment variable TF_CONFIG"),
        ("parameter_server", "has no coordinator"),
        ("tpu", "its last release for TPUs is 2.20. Take the JAX backend"),
    ],
)
def test_what_cannot_train_is_refused(name, said, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match=said):
        strategy_by_name(name)


def test_one_device_writes_and_waits_for_nobody():
    assert strategy_by_name("none") is None
    one = Devices()
    assert one.write and not one.are_workers and one.wait() is None


def test_an_experiment_under_a_strategy_trains_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "compare", lambda runner, *rest: runner)
    strategies = {"one": None, "mirrored": tf.distribute.MirroredStrategy(["CPU:0"])}
    for name, strategy in strategies.items():
        tiny().run(tmp_path / name, strategy=strategy)
    for key in ("teacher", "alone-0", "distilled-0"):
        one, other = (weights(tmp_path / name, key) for name in strategies)
        assert same(one, other) or np.allclose(one[0], other[0], atol=1e-6)
