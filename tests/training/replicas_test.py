"""The update on two replicas is the update on one, for every term and whatever the batch."""

import children
import pytest

pytestmark = pytest.mark.xdist_group("replicas")  # one child, not one for each process
several = pytest.mark.parametrize("which", ["all", "traced"])


@pytest.fixture(scope="module")
def report():
    return children.result(children.start("replicas_child.py"), timeout=1800)


def apart(differences, tolerance):
    return {name: value for name, value in differences.items() if not value <= tolerance}


def test_every_loss_takes_part(report):
    assert {"KLDivergence_0", "KLDivergence_1"} <= {*report["heads"]}


@several
def test_two_replicas_train_as_one(report, which):
    assert report[which]["finite"]
    assert not apart(report[which]["variables"], 1e-6)


@several
def test_every_head_and_the_projector_are_trained(report, which):
    assert report[which]["untrained"] <= 1  # the kernel of the head for labels


@several
def test_two_replicas_log_what_one_logs(report, which):
    assert report[which]["same_logs"]
    assert not apart(report[which]["logs"], 1e-5)


def test_a_fault_on_one_replica_stops_both_with_the_last_good_weights(report):
    said, kept = report["guarded"]
    assert "at step 1: the output of `teacher`" in said and kept
