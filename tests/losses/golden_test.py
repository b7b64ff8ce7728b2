"""Losses and gradients against those of the methods' original code."""

import json
import pathlib

import numpy as np
import pytest
from backends import array, tensor, value_and_gradients
from golden import ADAPTERS

FOLDER = pathlib.Path(__file__).with_name("golden_data")
METHODS = json.loads((FOLDER / "manifest.json").read_text())["methods"]
LAYOUTS = ("_nhwc", "_hwio", "_io")
CASES = [
    pytest.param(method, case, id=f"{method['method']}-{case['case']}")
    for method in METHODS
    for case in method["cases"]
    if method["method"] in ADAPTERS
]


class Arrays(dict):
    """A case's tensors, which remembers which of them were read."""

    def __init__(self, tensors):
        super().__init__(tensors)
        self.read = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name, default=None):
        return self[name] if name in self else default


def arrays_of(method, case):
    prefix = case["case"] + "."
    with np.load(FOLDER / method["npz"]) as file:
        return {key[len(prefix) :]: file[key] for key in file.files if key.startswith(prefix)}


def expected_loss(method, case, arrays):
    """The reference in float64 where there is one, else its formula in NumPy."""
    if "loss64" not in arrays:
        return float(arrays["loss"])
    recomputed = method["reference_internal_fp32"] and "loss_numpy64" in arrays
    return float(arrays["loss_numpy64" if recomputed else "loss64"])


def is_output(name):
    return name.startswith(("grad", "expected_", "hp.", "loss"))


def base_of(name):
    return next((name.removesuffix(end) for end in LAYOUTS if name.endswith(end)), name)


@pytest.mark.parametrize("method, case", CASES)
def test_loss_and_gradients_are_the_references(method, case):
    arrays = arrays_of(method, case)
    tensors = Arrays({k: tensor(v) for k, v in arrays.items() if not is_output(k)})
    watched = {k: t for k, t in tensors.items() if base_of(k) in case["differentiable_inputs"]}

    def compute(watched):
        tensors.update(watched)
        return ADAPTERS[method["method"]](tensors, case["hyper_parameters"])

    loss, gradients = value_and_gradients(compute, watched)
    tolerance, expected = case["tolerance"], expected_loss(method, case, arrays)
    limit = tolerance["loss_atol"] + tolerance["loss_rtol"] * abs(expected)
    assert loss.shape == () and abs(float(loss) - expected) <= limit
    read = tensors.read & {*watched}
    assert {base_of(name) for name in read} == {*case["differentiable_inputs"]}
    limit = tolerance["grad_atol"] + tolerance["grad_rel_to_max"] * (case["grad_max_abs"] or 0)
    for name in sorted(read):
        gradient = array(gradients[name]).astype("float64")
        assert np.abs(gradient - arrays[f"grad64_{name}"]).max() <= limit, name


def test_most_references_are_carried():
    assert {*ADAPTERS} <= {method["method"] for method in METHODS}
