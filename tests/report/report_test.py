"""Each measure against a plain loop, and a page that needs nothing but itself."""
import json
import math
import os
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import report
from keras_distill.report import page as report_page

CLASSES = 4


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def model(seed, activation=None):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(CLASSES, activation=activation)])


def arrays(count=50):
    random = np.random.default_rng(3)
    return random.normal(size=(count, 3)).astype("float32"), random.integers(0, CLASSES, count)


def batches(y=None):
    x, labels = arrays()
    return tf.data.Dataset.from_tensor_slices((x, labels if y is None else y)).batch(16)


def random_log_probs(seed, count=50):
    return log_softmax(np.random.default_rng(seed).normal(size=(count, CLASSES)) * 2)


def test_measures_equal_plain_loops():
    student, teacher = model(0), model(1)
    x, y = arrays()
    got = report.measure(student, batches(), teacher)
    s, t = (np.exp(log_softmax(np.asarray(m(x)).astype("float64"))) for m in (student, teacher))
    n, kl, agree, right, nll = len(y), 0.0, 0, 0, 0.0
    for i in range(n):
        kl += sum(t[i, c] * (math.log(t[i, c]) - math.log(s[i, c])) for c in range(CLASSES)) / n
        agree += s[i].argmax() == t[i].argmax()
        right += s[i].argmax() == y[i]
        nll -= math.log(s[i, y[i]]) / n
    ece = 0.0
    for b in range(15):
        inside = [i for i in range(n) if b / 15 < s[i].max() <= (b + 1) / 15]
        if inside:
            accuracy = sum(s[i].argmax() == y[i] for i in inside) / len(inside)
            ece += len(inside) / n * abs(accuracy - sum(s[i].max() for i in inside) / len(inside))
    expected = {"accuracy": right / n, "agreement": agree / n, "kl_to_teacher": kl, "nll": nll,
                "expected_calibration_error": ece, "parameters": 16}
    assert got == pytest.approx(expected, abs=1e-5)


def test_several_labels_an_example_are_no_one_hot_class():
    student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "sigmoid")])
    batch = np.ones((2, 2), "float32"), np.array([[1, 0, 1], [0, 0, 0]], "float32")
    with pytest.raises(ValueError, match="single 1 in each row. Received: rows with 0 to 2"):
        report.measure(student, [batch])


def test_probabilities_and_one_hot_labels_measure_the_same():
    logits, probabilities = model(0), model(0, "softmax")
    one_hot = np.eye(CLASSES)[arrays()[1]]
    assert report.measure(probabilities, batches(one_hot)) == pytest.approx(
        report.measure(logits, batches()), abs=1e-5)


def test_a_shuffled_order_is_the_same_for_teacher_and_student():
    got = report.measure(model(0), batches().shuffle(9), model(0))
    assert got["agreement"] == 1 and got["kl_to_teacher"] == 0


def test_bad_data_is_named():
    with pytest.raises(ValueError, match="at least one batch"):
        report.measure(model(0), batches().take(0))
    with pytest.raises(ValueError, match=r"integers in \[0, 4\)"):
        report.measure(model(0), batches(np.full(50, 4)))
    with pytest.raises(ValueError, match=r"one output of shape \(batch, ..., classes\)"):
        report.measure(lambda x: {"a": x, "b": x}, batches())
    one = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match='0 or 1. Measure a regression with `task="numbers"`'):
        report.measure(one, batches())
    with pytest.raises(ValueError, match="`task` must be one of classes, numbers"):
        report.measure(one, batches(), task="values")
    with pytest.raises(ValueError, match="Targets must be numbers"):
        report.measure(model(0), batches(), task="numbers")
    with pytest.raises(ValueError, match="50 equal ones"):
        report.measure(one, batches(np.ones(50)), task="numbers")


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_one_unit_says_yes_or_no(activation):
    x, y = arrays()
    one = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation=activation)])
    got = report.measure(one, batches(y % 2), one)
    values = np.asarray(one(x)).ravel().astype("float64")
    right, nll = 0, 0.0
    for value, label in zip(values, y % 2):
        p = value if activation else 1 / (1 + math.exp(-value))
        right += (p > 0.5) == label
        nll -= math.log(p if label else 1 - p) / len(y)
    assert got["accuracy"] == right / len(y) and got["agreement"] == 1
    assert got["nll"] == pytest.approx(nll, rel=1e-5)
    assert report.measure(one, batches((y % 2)[:, None]))["nll"] == got["nll"]


def test_numbers_equal_plain_loops():
    student, teacher = model(0), model(1)
    x, _ = arrays()
    y = np.random.default_rng(5).normal(size=(50, CLASSES)) + 3
    got = report.measure(student, batches(y), teacher, task="numbers")
    s, t = (np.asarray(m(x)).astype("float64") for m in (student, teacher))
    r2, absolute, square, distance = 0.0, 0.0, 0.0, 0.0
    for j in range(CLASSES):
        mean = sum(y[i, j] for i in range(50)) / 50
        wrong = sum((y[i, j] - s[i, j]) ** 2 for i in range(50))
        r2 += (1 - wrong / sum((y[i, j] - mean) ** 2 for i in range(50))) / CLASSES
        square += wrong / 50 / CLASSES
        absolute += sum(abs(y[i, j] - s[i, j]) for i in range(50)) / 50 / CLASSES
        distance += sum(abs(t[i, j] - s[i, j]) for i in range(50)) / 50 / CLASSES
    expected = {"r2": r2, "mean_absolute_error": absolute, "distance_to_teacher": distance,
                "root_mean_square_error": math.sqrt(square), "parameters": 16}  # fmt: skip
    assert got == pytest.approx(expected)
    student.layers[0].bias.assign(np.full(CLASSES, np.nan))
    lost = report.measure(student, batches(y), task="numbers")
    assert lost["r2"] is None and "50 answers are not finite" in lost["failed"]


def test_a_page_of_numbers(tmp_path):
    arms = {arm: {"seeds": [{"r2": r2, "mean_absolute_error": 0.1}], "history": [{}]}
            for arm, r2 in (("teacher", 0.9), ("alone", -0.5), ("distilled", 0.7))}  # fmt: skip
    with open(report.write(tmp_path, {"arms": arms}), encoding="utf-8") as file:
        page = file.read()
    assert ("reaches R² 0.7000, +1.2000 compared with the same student alone (-0.5000). The "
            "teacher has 0.9000.") in page  # fmt: skip
    table = report.table(report.summaries({"arms": arms}))
    assert "R²" in table and "accuracy" not in table and "-0.5000" in table


def test_what_is_not_finite_is_said_and_is_no_gain(tmp_path):
    log_probs, labels = random_log_probs(0), arrays()[1]
    log_probs[3] = np.nan
    known = np.arange(len(labels)) != 3
    found = report.scores(log_probs, labels, log_probs)
    some = report.scores(log_probs[known], labels[known])
    assert found["not_finite"] == 1 and found["nll"] == some["nll"]
    assert found["accuracy"] == pytest.approx(some["accuracy"] * known.sum() / len(labels))
    none = report.scores(np.full_like(log_probs, np.nan), labels, log_probs)
    assert none["failed"] and none["accuracy"] is None and none["kl_to_teacher"] is None
    arms = {"alone": {"seeds": [none]}, "distilled": {"seeds": [found]}}
    page = report.write(tmp_path, {"arms": arms})
    with open(page, encoding="utf-8") as file:
        assert "The gain is unknown" in file.read()
    assert "alone (1 failed)" in report.table(report.summaries({"arms": arms}))


def test_a_model_with_nan_is_not_finite():
    net = model(0)
    assert report.is_finite(net)
    net.layers[0].bias.assign(np.full(CLASSES, np.nan))
    assert not report.is_finite(net)


def test_latency_and_size():
    models = {"a": model(0), "b": model(1)}
    got = report.latency(models, arrays()[0], runs=3, warmup=1)
    assert set(got) == {"a", "b"} and got["a"]["p99_ms"] >= got["a"]["median_ms"] > 0
    size = report.size_on_disk(models["a"])
    models["a"].compile("adam", "mse")
    assert abs(report.size_on_disk(models["a"]) - size) < 200


def test_summaries_and_the_table():
    got = report.summarize([{"accuracy": 0.8}, {"accuracy": 0.9}])["accuracy"]
    deviation = pytest.approx(np.std([.8, .9], ddof=1))
    assert got == {"mean": pytest.approx(0.85), "std": deviation, "n": 2}
    assert report.summarize([{"accuracy": 0.8}])["accuracy"]["std"] is None
    text = report.table({"alone": {"accuracy": got}, "distilled": {}})
    lines = text.splitlines()
    assert "85.00 ± 7.07" in lines[2] and lines[3].split() == ["distilled", *["-"] * 8]
    assert len({len(line) for line in lines}) == 1


def test_doubts_are_the_teachers_and_the_students():
    images = np.random.default_rng(0).uniform(0, 16, size=(50, 5, 5, 1))
    arms = ("teacher", "alone", "distilled")
    probs = {arm: random_log_probs(i) for i, arm in enumerate(arms)}
    found = report.doubts(images, np.zeros(50, int), probs, count=3)
    sure = [np.array(d["probabilities"]["teacher"]) for d in found]
    entropy = [-(p * np.log(p)).sum() for p in sure]
    assert len(found) == 3 and entropy == sorted(entropy, reverse=True)
    for d in found:
        t, a, s = (np.array(d["probabilities"][k]) for k in ("teacher", "alone", "distilled"))
        assert (t * np.log(t / s)).sum() < (t * np.log(t / a)).sum()
        assert 0 <= np.min(d["image"]) and np.max(d["image"]) <= 1
    assert report.doubts(np.zeros((50, 7), int), np.zeros(50, int), probs) == []


def results():
    arms, labels = ("teacher", "alone", "distilled"), arrays()[1]
    probs = {arm: random_log_probs(i) for i, arm in enumerate(arms)}
    images = np.random.default_rng(0).uniform(size=(50, 8, 8))
    entry = {arm: {"seeds": [{"accuracy": np.float32(.9 + .01 * s + .02 * i), "parameters": 16,
                              "nll": float("inf")} for s in range(3)],
                   "history": [{"val_accuracy": [.5, .7 + .01 * s, .8]} for s in range(3)]}
             for i, arm in enumerate(arms)}
    return {"name": "a <b>", "command": "python -m x", "settings": {"alpha": 0.5}, "arms": entry,
            "latency": {"alone": {"median_ms": .3, "p99_ms": .5}}, "seconds": 3.0,
            "reliability": {arm: report.reliability(probs[arm], labels) for arm in arms},
            "doubts": report.doubts(images, labels, probs, count=2)}


def test_the_page_is_self_contained_and_the_json_reads_back(tmp_path):
    path = report.write(tmp_path, results())
    assert sorted(os.listdir(tmp_path)) == ["report.html", "report.json"]
    with open(path, encoding="utf-8") as file:
        page = file.read()
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(links) == 5 and all(link.startswith("data:image/png;base64,") for link in links)
    assert "http" not in re.sub(r'src="[^"]*"', "", page) and "a &lt;b&gt;" in page
    with open(tmp_path / "report.json", encoding="utf-8") as file:
        read = json.load(file)
    assert read["arms"]["alone"]["seeds"][0]["nll"] is None
    assert read["doubts"] == results()["doubts"]


def test_classes_with_dollars_are_drawn_and_a_plot_that_fails_is_said(tmp_path, monkeypatch):
    doubt = {"image": [[0.0, 1.0], [1.0, 0.0]], "label": 0,
             "probabilities": {"teacher": [0.6, 0.4]}}  # fmt: skip
    results = {"arms": {"alone": {"seeds": [{"accuracy": 0.5}]}}, "doubts": [doubt],
               "classes": [r"$\frac$", "$"]}  # fmt: skip
    with open(report.write(tmp_path, results), encoding="utf-8") as file:
        page = file.read()
    assert page.count("<img") == 2 and "could not be drawn" not in page
    monkeypatch.setattr(report_page, "_bars", lambda arms: [][0])
    with open(report.write(tmp_path, results), encoding="utf-8") as file:
        page = file.read()
    assert page.count("<img") == 1 and "could not be drawn" in page


def test_a_report_of_little_is_still_a_report(tmp_path):
    path = report.write(tmp_path, {"arms": {"alone": {"seeds": [{"accuracy": .5}]}}})
    assert "alone: 50.00% accuracy" in open(path, encoding="utf-8").read()
    with pytest.raises(ValueError, match="must have 'arms'"):
        report.write(tmp_path, {})
