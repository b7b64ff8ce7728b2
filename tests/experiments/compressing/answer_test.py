"""Who won, by a paired test, and which models no other beats."""

import itertools

import pytest

from keras_distill.experiments.compressing.answer import mcnemar, pareto, verdict


@pytest.mark.parametrize("won, lost", [(0, 0), (1, 0), (5, 1), (3, 3), (2, 9), (10, 2)])
def test_mcnemar_counts_the_coins(won, lost):
    count = won + lost
    tosses = [sum(each) for each in itertools.product((0, 1), repeat=count)]
    far = abs(won - lost)
    wanted = sum(abs(2 * heads - count) >= far for heads in tosses) / len(tosses)
    assert mcnemar(won, lost) == pytest.approx(wanted)


def test_mcnemar_of_many():
    assert mcnemar(600, 400) == pytest.approx(2.7e-10, rel=0.1)
    assert mcnemar(5_000, 5_000) == 1


def test_the_front_is_what_nothing_cheaper_beats():
    assert pareto([(2, 5), (1, 3), (3, 4), (3, 6), (2, 4), (4, 6)]) == [(1, 3), (2, 5), (3, 6)]


def told(gain, p, confidence=0.9, alone=(90.0, 91.0)):
    judged = {"gain": gain, "error": 0.1, "p": p, "alone": list(alone)}
    found = {"default": {"signs": {"confidence": confidence}}, "teacher": {"accuracy": 0.95}}
    return verdict(judged, found)


def test_the_verdict_says_which_how_sure_and_what_to_try():
    assert told(0.6, 0.01).startswith("The teacher helps: +0.60 ± 0.10 points")
    assert "--repeats" in told(0.6, 0.3)
    worse = told(-0.2, 0.3)
    assert worse.startswith("The teacher does not help here: -0.20") and "student alone" in worse
    assert "unlabeled" in told(-0.2, 0.3, confidence=0.999)
    assert "better teacher" in told(-0.2, 0.3, alone=(96.0, 95.0))
