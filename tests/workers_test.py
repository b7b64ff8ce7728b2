"""Two workers, each a process, train as one does."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

CHILD = pathlib.Path(__file__).with_name("workers_child.py")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(index, ports):
    path = os.pathsep.join([str(CHILD.parent.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(CHILD), str(index), *ports],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1"},
    )


def result(child):
    output, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors[-4000:]
    return json.loads(output.splitlines()[-1])


def test_two_workers_train_as_one():
    ports = free_ports(2)
    children = [start(index, ports) for index in range(2)]
    first, second = (result(child) for child in children)
    alone = result(start(0, ports[:1]))
    assert first == second
    np.testing.assert_allclose(first["weights"], alone["weights"], rtol=1e-5)
    assert {*first["logs"]} == {*alone["logs"]}
    for logs in ("logs", "evaluated"):
        for name, values in alone[logs].items():
            np.testing.assert_allclose(np.ravel(first[logs][name]), np.ravel(values), rtol=1e-4)
