"""Accuracy, operations and latency over thresholds, and the count of operations."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from kinds import arrays

from keras_distill import models

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(40, 6)).astype("float32") * 3
Y = RANDOM.integers(0, 4, 40)


def net():
    x = inputs = keras.Input((6,))
    outputs = {}
    for depth, name in enumerate(("shallow", "final")):
        x = layers.Dense(5, activation="tanh", name=f"block_{depth}")(x)
        outputs[name] = layers.Dense(4, name=f"head_{depth}")(x)
    return keras.Model(inputs, outputs)


def batches(x=X, y=Y):
    return [(x[start : start + 16], y[start : start + 16]) for start in range(0, len(x), 16)]


def spec(*shape):
    return keras.KerasTensor((1, *shape))


def test_operations_by_hand():
    dense = keras.Sequential([keras.Input((6,)), layers.Dense(5), layers.Dense(3)])
    assert models.operations(dense, spec(6)) == 2 * (6 * 5 + 5 * 3)
    conv = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3, padding="same", strides=2)]
    )
    assert models.operations(conv, spec(8, 8, 3)) == 2 * 4 * 4 * 4 * 3 * 3 * 3
    separable = keras.Sequential([keras.Input((8, 8, 3)), layers.DepthwiseConv2D(3)])
    assert models.operations(separable, spec(8, 8, 3)) == 2 * 6 * 6 * 3 * 9


def test_operations_of_attention_by_hand():
    x = keras.Input((7, 8))
    model = keras.Model(x, layers.MultiHeadAttention(2, 4)(x, x))
    projections, scores = 4 * 7 * 8 * 8, 2 * 2 * 7 * 7 * 4
    assert models.operations(model, spec(7, 8)) == 2 * (projections + scores)


def test_operations_of_an_ellipsis():
    def function(x):
        return ops.einsum("...a,ab->...b", x, ops.ones((6, 3)))

    assert models.operations(function, spec(2, 5, 6)) == 2 * 2 * 5 * 6 * 3
    with pytest.raises(ValueError, match="known shapes"):
        models.operations(function, keras.KerasTensor((None, 6)))


def test_the_report_is_the_formula():
    model = net()
    report = models.exit_report(model, batches(), thresholds=[0.0, 0.6, 1.0], timed=0)
    shallow, deep = (arrays(model(X)[name]) for name in ("shallow", "final"))
    sure = np.exp(shallow).max(-1) / np.exp(shallow).sum(-1) >= 0.6
    answers = np.where(sure, shallow.argmax(-1), deep.argmax(-1))
    row = report["thresholds"][1]
    first, whole = 2 * (6 * 5 + 5 * 4), 2 * (6 * 5 + 5 * 4 + 5 * 5 + 5 * 4)
    assert 0 < sure.mean() < 1
    assert row["accuracy"] == pytest.approx((answers == Y).mean())
    assert row["taken"] == pytest.approx({"shallow": sure.mean(), "final": 1 - sure.mean()})
    assert row["operations"] == pytest.approx(sure.mean() * first + (1 - sure.mean()) * whole)
    assert [exit["exit"] for exit in report["exits"]] == ["shallow", "final"]
    assert report["exits"][1]["operations"] == 2 * (6 * 5 + 5 * 5 + 5 * 4)
    assert report["thresholds"][2]["accuracy"] == pytest.approx((deep.argmax(-1) == Y).mean())
    assert row["share"] == pytest.approx(row["operations"] / report["exits"][1]["operations"])
    assert "latency_ms" not in row


def test_latencies_one_hot_labels_and_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    report = models.exit_report(net(), batches(y=np.eye(4)[Y]), timed=3, rounds=2)
    assert all(row["latency_ms"] > 0 for row in report["thresholds"])
    models.plot_exits(report, tmp_path / "exits.png")
    assert (tmp_path / "exits.png").read_bytes()[:4] == b"\x89PNG"


def test_the_answers_are_those_of_the_early_model():
    model = net()
    report = models.exit_report(model, batches(), thresholds=[0.7], timed=0)
    early = models.early_exit(model, 0.7)
    accuracy = (early.predict(X, batch_size=1, verbose=0).argmax(-1) == Y).mean()
    assert report["thresholds"][0]["accuracy"] == pytest.approx(accuracy)


def test_the_cheapest_that_loses_little():
    rows = [{"accuracy": a, "operations": o} for a, o in ((0.5, 1), (0.896, 2), (0.9, 3))]
    report = {"exits": [{"accuracy": 0.9}], "thresholds": rows}
    assert models.cheapest(report)["operations"] == 2
    assert models.cheapest(report, lost=0.001)["operations"] == 3
    assert models.cheapest(report, lost=0.5)["operations"] == 1
    with pytest.raises(ValueError, match="lost"):
        models.cheapest(report, lost=2)
    with pytest.raises(ValueError, match="higher"):
        models.cheapest({**report, "thresholds": rows[:1]})


def test_refused():
    with pytest.raises(ValueError, match="threshold"):
        models.exit_report(net(), batches(), thresholds=[3])
    with pytest.raises(ValueError, match="at least one batch"):
        models.exit_report(net(), [])
