"""Two workers, each a process, train as one does."""

import socket

import children
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill._keras import trainer
from keras_distill.training.scores import per_worker


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def test_two_workers_train_as_one():
    ports = free_ports(2)
    workers = [children.start("workers_child.py", str(index), *ports) for index in range(2)]
    first, second = (children.result(worker, timeout=300) for worker in workers)
    alone = children.result(children.start("workers_child.py", "0", ports[0]), timeout=300)
    assert first == second
    assert "`steps_per_execution` must be 1 on several workers" in first["refused"]
    if trainer.runs_on_workers():
        assert first["stock"] == "trained"
    else:
        said = f"Name Keras {keras.version()} as `RUNS_ON_WORKERS`: it trains on workers by itself."
        assert "PerReplica" in first["stock"], said
    np.testing.assert_allclose(first["weights"], alone["weights"], rtol=1e-6)
    assert {*first["logs"]} == {*alone["logs"]}
    for logs in ("logs", "evaluated"):
        for name, values in alone[logs].items():
            found = np.ravel(first[logs][name])
            np.testing.assert_allclose(found, np.ravel(values), atol=1e-6)


@pytest.mark.parametrize(("since", "runs"), [(None, False), ((3, 12), True), ((99, 0), False)])
def test_nothing_is_mended_for_a_keras_that_trains_on_workers(monkeypatch, since, runs):
    monkeypatch.setattr(trainer, "RUNS_ON_WORKERS", since)
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: Workers())
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", Workers)
    assert trainer.runs_on_workers() is runs
    assert per_worker({"loss": tf.ones(())})["loss"].shape == (() if runs else (1,))


class Workers:
    """Stands for a strategy."""
