"""The test of pairs against all tosses, the interval against resamples drawn one by one."""

import itertools

import numpy as np
import pytest

from keras_distill.report.statistics import bootstrap, interval, mcnemar, pareto, sign_flips


@pytest.mark.parametrize("won, lost", [(0, 0), (1, 0), (5, 1), (3, 3), (2, 9), (10, 2)])
def test_mcnemar_counts_the_coins(won, lost):
    count = won + lost
    tosses = [sum(each) for each in itertools.product((0, 1), repeat=count)]
    far = abs(won - lost)
    wanted = sum(abs(2 * heads - count) >= far for heads in tosses) / len(tosses)
    assert mcnemar(won, lost) == pytest.approx(wanted)


@pytest.mark.parametrize("count, shift", [(1, 1.0), (8, 0.0), (8, 0.6), (11, 2.0)])
def test_sign_flips_draw_from_all_signs(count, shift):
    found = np.random.default_rng(count).normal(size=count) + shift
    sums = [np.dot(signs, found) for signs in itertools.product((-1, 1), repeat=count)]
    wanted = np.mean(np.abs(sums) >= abs(found.sum()) - 1e-9)
    assert sign_flips(found, draws=40_000) == pytest.approx(wanted, abs=0.01)
    assert sign_flips(np.zeros(4)) == 1


def test_mcnemar_of_many():
    assert mcnemar(600, 400) == pytest.approx(2.7e-10, rel=0.1)
    assert mcnemar(5_000, 5_000) == 1


def test_the_front_is_what_nothing_cheaper_beats():
    assert pareto([(2, 5), (1, 3), (3, 4), (3, 6), (2, 4), (4, 6)]) == [(1, 3), (2, 5), (3, 6)]


def test_the_interval_is_that_of_resampled_examples():
    random = np.random.default_rng(1)
    right = random.random((2, 400)) < [[0.9], [0.7]]
    sums = np.stack([right, np.ones_like(right)], -1).astype(float)
    found = bootstrap(sums, lambda totals: totals[..., 0] / totals[..., 1], resamples=1050)
    assert found.shape == (2, 1050)
    again = bootstrap(sums, lambda totals: totals[..., 0] / totals[..., 1], resamples=1050)
    np.testing.assert_array_equal(found, again)
    for model in range(2):
        drawn = [right[model, random.integers(0, 400, 400)].mean() for _ in range(2000)]
        assert interval(found[model]) == pytest.approx(interval(np.array(drawn)), abs=0.01)
    assert interval(np.array([1.0, np.nan])) == (None, None)


def test_all_models_see_the_same_draws():
    sums = np.random.default_rng(0).random((1, 30, 1))
    found = bootstrap(np.concatenate([sums, sums]), lambda totals: totals[..., 0], resamples=20)
    np.testing.assert_allclose(found[0], found[1])
