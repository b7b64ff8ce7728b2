"""A few of the tests that every backend has, on JAX; `make test-backends` runs all of them."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
EVERY = "tests/training/every_backend_test.py"
FEW = (
    "test_alpha_zero_is_the_students_fit_bit_for_bit",
    "test_weights_masks_and_nan_under_the_mask",
    "test_projectors_train_and_the_teacher_stays",
    "test_no_array_of_a_teacher_is_a_constant_of_the_compiled_step",
)


@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="JAX is not installed")
def test_a_distiller_trains_on_jax():
    child = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *(f"{EVERY}::{name}" for name in FEW)],
        cwd=ROOT, env={**os.environ, "KERAS_BACKEND": "jax"}, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert child.returncode == 0, child.stdout[-3000:]
    assert f"{len(FEW)} passed" in child.stdout
