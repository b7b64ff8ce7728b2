"""Strategies by name, and what one device is."""

import pytest

pytest.importorskip("tensorflow")
from keras_distill.experiments.devices import Devices, mesh_by_text, strategy_by_name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("many", "must be one of none, mirrored"),
        ("multi_worker", "needs the environment variable TF_CONFIG"),
        ("parameter_server", "has no coordinator"),
        ("tpu", "The last release for TPUs is 2.20. Use the JAX backend"),
    ],
)
def test_what_cannot_train_is_refused(name, said, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match=said):
        strategy_by_name(name)


def test_a_mesh_is_refused_where_keras_does_not_run_on_jax():
    with pytest.raises(ValueError, match="KERAS_BACKEND=jax.*mesh='data:2' on tensorflow"):
        mesh_by_text("data:2")


def test_one_device_writes_and_waits_for_nobody():
    assert strategy_by_name("none") is None
    one = Devices()
    assert one.write and not one.are_workers and one.wait() is None
