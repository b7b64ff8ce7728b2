"""A mesh of devices makes the updates of one, with the batch spread over it or layers split.

Without `WHOLE` on four devices, which is the same code as on eight.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest
from whole import WHOLE

HERE = pathlib.Path(__file__).parent
DEVICES = 8 if WHOLE else 4
# Each program runs a few times: to make it faster takes longer.
QUICKLY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def needs(*modules):
    missing = [name for name in modules if not importlib.util.find_spec(name)]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def printed(devices, script, *arguments):
    """What a script prints last, on JAX with so many devices."""
    flags = f"--xla_force_host_platform_device_count={devices} {QUICKLY}"
    given = {"KERAS_BACKEND": "jax", "XLA_FLAGS": flags, "PYTHONPATH": str(HERE.parents[1])}
    child = subprocess.run(
        [sys.executable, str(HERE / script), *arguments],
        env={**os.environ, **given}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    return json.loads(child.stdout.splitlines()[-1])


@needs("jax")
def test_a_mesh_makes_the_updates_of_one_device():
    found = printed(DEVICES, "mesh_child.py")
    assert {name: each["devices"] for name, each in found.items()} == {
        "data 1": 1, "data 4": 4, f"data {DEVICES}": DEVICES, f"model {DEVICES // 2}x2": DEVICES
    }  # fmt: skip
    for name, each in found.items():
        assert each["weights"] < 1e-5 and each["logs"] < 1e-5, name


@needs("jax", "tensorflow", "matplotlib")
def test_train_over_a_mesh_is_train_on_one_device(tmp_path):
    found = printed(4, "mesh_commands_child.py", str(tmp_path))
    assert [code for code, _ in found["code"]] == [0, 0, 0], found["code"]
    assert found["data:4"] < 1e-5 and found["data:2,model:2"] < 1e-5
    assert found["places"] == {"data:4": [[4, "whole"]], "data:2,model:2": [[4, "split"]]}
    assert "--mesh=data:4" in found["command"]
    for case, said in (
        ("uneven", "must be a multiple of 4"),
        ("many", "at most as many devices as JAX has, 4 here"),
        ("wrong", "'data:8' or 'data:4,model:2'. Received: mesh='model:2'"),
        ("strategy", "give a mesh"),
    ):
        code, errors = found[case]
        assert code == 2 and said in errors and errors.count("\n") == 1, errors
