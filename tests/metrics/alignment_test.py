"""Minibatch CKA against the unbiased estimator written out in loops."""

import numpy as np
import pytest
from backends import tensor

from keras_distill import metrics

RANDOM = np.random.default_rng(0)


def hsic(x, y):
    """The mean over all ordered quadruples of different examples, of which it is an estimator."""
    n = len(x)
    k, el = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(el, 0)
    total = 0.0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += k[i, j] * (el[i, j] + el[q, r] - 2 * el[i, q])
    return total / (n * (n - 1) * (n - 2) * (n - 3))


def expected(batches):
    sums = np.sum([[hsic(x, y), hsic(x, x), hsic(y, y)] for x, y in batches], axis=0)
    return sums[0] / np.sqrt(sums[1] * sums[2])


def features(n):
    x = RANDOM.normal(size=(n, 4)) + 3.0
    return x, x @ RANDOM.normal(size=(4, 3)) + RANDOM.normal(size=(n, 3))


def filled(batches):
    metric = metrics.CKA()
    for batch in batches:
        metric.update_state(*(tensor(part, "float32") for part in batch))
    return float(metric.result())


def test_it_is_the_ratio_of_unbiased_estimates():
    batches = [features(6), features(5)]
    np.testing.assert_allclose(filled(batches), expected(batches), rtol=1e-4)


def test_examples_of_weight_zero_are_left_out():
    x, y = features(8)
    weights = np.array([1, 0, 1, 1, 0, 2, 1, 1])
    kept = weights > 0
    x[1] = np.nan
    found = filled([(x, y, weights)])
    np.testing.assert_allclose(found, expected([(x[kept], y[kept])]), rtol=1e-4)


def test_it_is_one_up_to_rotation_and_scale_and_about_zero_if_unrelated():
    x, _ = features(32)
    turn, _ = np.linalg.qr(RANDOM.normal(size=(4, 4)))
    np.testing.assert_allclose(filled([(x, 5 * x @ turn + 1)]), 1.0, rtol=1e-4)
    unrelated = [tuple(RANDOM.normal(size=(2, 32, 4))) for _ in range(50)]
    assert abs(filled(unrelated)) < 0.02  # a biased estimate would be about 0.1


def test_before_the_first_batch_it_is_zero():
    assert float(metrics.CKA().result()) == 0


def test_batches_of_three_are_refused():
    with pytest.raises(ValueError, match="at least 4 examples. Received: 3"):
        metrics.CKA().update_state(*features(3))
