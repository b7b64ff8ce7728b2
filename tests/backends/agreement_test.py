"""From the same weights every loss makes the same updates on each backend that is installed.

Without `WHOLE` a few losses stand for all.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from whole import WHOLE

HERE = pathlib.Path(__file__).parent
BACKENDS = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
TOLERANCE = 1e-5
FEW = ("KLDivergence", "SimilarityPreserving", "AttentionTransfer", "RelationalDistance")


def updates(backend, folder, names):
    path = folder / f"{backend}.npz"
    root = HERE.parents[1]
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(root)}
    child = subprocess.run(
        [sys.executable, str(HERE / "updates.py"), str(path), *names],
        env=environment, capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    return dict(np.load(path))


@pytest.mark.skipif(len(BACKENDS) < 2, reason="one backend is installed")
def test_fifty_updates_agree(tmp_path):
    names = () if WHOLE else FEW
    first, *others = (updates(backend, tmp_path, names) for backend in BACKENDS)
    assert len(first) >= (len(names) or 40)
    wrong = {}
    for backend, found in zip(BACKENDS[1:], others):
        assert found.keys() == first.keys()
        for name, values in found.items():
            scale = np.abs(first[name]).max()
            error = np.abs(values - first[name]).max() / scale
            if not error <= TOLERANCE:
                wrong[backend, name] = error
    assert not wrong
