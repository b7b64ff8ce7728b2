"""Every scheme, on replicas of which some have no example, is what it is on one device."""

import children
import pytest

CASES = ("offline", "cached", "ensemble", "online", "moving_average", "masked_tokens", "fused_head",
         "several_outputs", "scaled", "several_steps", "judged", "clipnorm", "global_clipnorm",
         "clipvalue")  # fmt: skip
pytestmark = pytest.mark.xdist_group("schemes_on_replicas")  # one child, not one for each process


@pytest.fixture(scope="module")
def report():
    return children.results(children.start("schemes_child.py", "3"), timeout=1800)


@pytest.mark.parametrize("case", CASES)
def test_weights_and_logs_are_those_of_one_device(report, case):
    found = report[case]
    assert max(found["weights"].values()) <= 1e-5
    assert found["names"][0] == found["names"][1]
    assert not {name: value for name, value in found["logs"].items() if not value <= 1e-6}
