"""Peers as a teacher, against loops."""

import math

import numpy as np
import pytest
from backends import array, call, tensor

from keras_distill.losses import CollaborativeKL, KLDivergence

RANDOM = np.random.default_rng(0)
PEERS = list(RANDOM.normal(size=(3, 6, 4)).astype("float32") * 2)
LABELS = np.array([0, 1, 2, 3, 0, 1])


def check(ensemble, teacher):
    found = call(CollaborativeKL(ensemble, 3.0), PEERS, PEERS[0], LABELS)
    np.testing.assert_allclose(found, call(KLDivergence(3.0), teacher, PEERS[0]), rtol=1e-5)


def test_mean_of_peers():
    check("mean", sum(PEERS) / 3)


def test_best_peer_of_each_example():
    def cross_entropy(row, label):
        return -math.log(math.exp(row[label]) / sum(math.exp(one) for one in row))

    best = [
        min((peer[i].tolist() for peer in PEERS), key=lambda row: cross_entropy(row, label))
        for i, label in enumerate(LABELS)
    ]
    check("best", np.array(best, "float32"))


def test_least_logits_against_the_labels():
    rows = []
    for i, label in enumerate(LABELS):
        gaps = [[one - peer[i][label] for one in peer[i]] for peer in PEERS]
        rows.append([min(column) for column in zip(*gaps)])
    check("min_logit", np.array(rows, "float32"))


def test_the_least_logits_are_surer_of_the_label_than_any_peer():
    """So the ensemble's cross-entropy is at most the best peer's."""

    def of(ensemble):
        return array(CollaborativeKL(ensemble)._together(tensor(np.stack(PEERS)), LABELS))

    def sure(logits):
        powers = np.exp(logits)
        return (powers / powers.sum(-1, keepdims=True))[np.arange(6), LABELS]

    assert (sure(of("min_logit")) >= sure(of("best")) - 1e-6).all()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="`ensemble` must be one of"):
        CollaborativeKL("worst")
    with pytest.raises(ValueError, match="needs `labels`"):
        call(CollaborativeKL(), PEERS, PEERS[0])
