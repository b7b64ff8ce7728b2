"""Every scheme, on replicas of which some have no example, is what it is on one device.

Without `WHOLE` two replicas stand for three, 10 steps for 20, and those schemes are left out whose
steps are made of what others have.
"""

import children
import pytest
from whole import WHOLE

CASES = ("cached_tokens", "ensemble", "online", "self_taught", "moving_average", "masked_tokens",
         "fused_head", "half_precision")  # fmt: skip
if WHOLE:
    CASES += ("offline", "cached", "balanced", "raw_text", "several_outputs", "scaled", "judged")
ROUNDED = {"half_precision": (5e-4, 5e-4)}  # each device rounds its sums to 11 bits
pytestmark = pytest.mark.xdist_group("schemes_on_replicas")  # one child, not one for each process


@pytest.fixture(scope="module")
def report():
    child = children.start("schemes_child.py", "3" if WHOLE else "2", *CASES)
    return children.results(child, timeout=1800)


@pytest.mark.parametrize("case", CASES)
def test_weights_and_logs_are_those_of_one_device(report, case):
    found = report[case]
    weights, logs = ROUNDED.get(case, (1e-5, 1e-6))
    assert max(found["weights"].values()) <= weights
    assert found["names"][0] == found["names"][1]
    assert not {name: value for name, value in found["logs"].items() if not value <= logs}
