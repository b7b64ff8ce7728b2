"""The update on two replicas is the update on one, for every term and whatever the batch."""

import children
import pytest

CASES = ["uneven weighted", "last batch of one, several steps an execution"]
pytestmark = pytest.mark.xdist_group("replicas")  # one child, not one for each process


@pytest.fixture(scope="module")
def report():
    return children.result(children.start("replicas_child.py"), timeout=1800)


def apart(differences, tolerance):
    return {name: value for name, value in differences.items() if not value <= tolerance}


def test_every_loss_takes_part(report):
    assert {"KLDivergence_0", "KLDivergence_1"} <= {*report["heads"]}


@pytest.mark.parametrize("case", CASES)
def test_two_replicas_train_as_one(report, case):
    assert report[case]["finite"]
    assert not apart(report[case]["variables"], 1e-6)


@pytest.mark.parametrize("case", CASES)
def test_every_head_and_the_projector_are_trained(report, case):
    assert report[case]["untrained"] <= 1  # the kernel of the head for labels


@pytest.mark.parametrize("case", CASES)
def test_two_replicas_log_what_one_logs(report, case):
    assert report[case]["same_logs"]
    assert not apart(report[case]["logs"], 1e-5)


def test_two_replicas_evaluate_as_one(report):
    one, two = report["evaluate"]
    assert {*one} == {*two} and {"loss"} <= {*one}
    assert not apart({name: abs(value - two[name]) for name, value in one.items()}, 1e-6)


def test_cohorts_their_rates_and_mean_teachers_train_as_one(report):
    assert len(report["online"]) == 2 * 4 + 1
    assert max(report["online"]) <= 1e-6


def test_exits_train_as_one(report):
    assert len(report["own_teacher"]) == 2 * (2 + 2 + 1)  # blocks, heads, the projector
    assert max(report["own_teacher"]) <= 1e-6


def test_a_fault_on_one_replica_stops_both_with_the_last_good_weights(report):
    said, kept = report["guarded"]
    assert "at step 1: the output of `teacher`" in said and kept
