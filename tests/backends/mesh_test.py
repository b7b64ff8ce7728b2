"""A mesh of devices makes the updates of one, with the batch spread over it or layers split."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent


@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="JAX is not installed")
def test_a_mesh_makes_the_updates_of_one_device():
    devices = "--xla_force_host_platform_device_count=8"
    given = {"KERAS_BACKEND": "jax", "XLA_FLAGS": devices, "PYTHONPATH": str(HERE.parents[1])}
    child = subprocess.run(
        [sys.executable, str(HERE / "mesh_child.py")],
        env={**os.environ, **given}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    found = json.loads(child.stdout.splitlines()[-1])
    assert {name: each["devices"] for name, each in found.items()} == {
        "data 1": 1, "data 4": 4, "data 8": 8, "model 4x2": 8
    }  # fmt: skip
    for name, each in found.items():
        assert each["weights"] < 1e-5 and each["logs"] < 1e-5, name
