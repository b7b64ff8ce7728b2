"""Two workers, each a process, train as one does."""

import socket

import children
import numpy as np


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
    said = "Keras trains on workers by itself: drop `per_worker` and the peek at a local batch."
    assert "PerReplica" in first["stock"], said
    np.testing.assert_allclose(first["weights"], alone["weights"], rtol=1e-6)
    assert {*first["logs"]} == {*alone["logs"]}
    for logs in ("logs", "evaluated"):
        for name, values in alone[logs].items():
            found = np.ravel(first[logs][name])
            np.testing.assert_allclose(found, np.ravel(values), atol=1e-6)
