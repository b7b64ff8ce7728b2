"""The examples whose answers have places: an edge detector, and an object detector."""

import json

import numpy as np
import pytest


def results(folder):
    return json.loads((folder / "results.json").read_text())["arms"]


def test_a_tiny_edge_detector(example, eagerly, tmp_path):
    example("edge_detector").main(["--tiny", f"--out={tmp_path}"])
    found = results(tmp_path)
    assert [*found] == ["teacher", "labels", "pixels", "channel", "pixels and features"]
    sizes = {row["parameters"] for name, (row,) in found.items() if name != "teacher"}
    assert len(sizes) == 1 and max(sizes) * 10 < found["teacher"][0]["parameters"]
    assert all(0 < row["F-score"] <= 100 for (row,) in found.values())


def test_edges_lie_between_shapes(example):
    images, edges = example("edge_detector").scenes(3, 32, seed=1)
    assert images.shape == (3, 32, 32, 3) and edges.shape == (3, 32, 32, 1)
    assert images.min() >= 0 and images.max() <= 1 and {*edges.ravel()} == {0, 1}
    assert 0.02 < edges.mean() < 0.4
    again = example("edge_detector").scenes(3, 32, seed=1)
    np.testing.assert_array_equal(images, again[0])


def test_edges_weigh_as_much_as_the_rest(example):
    random = np.random.default_rng(0)
    edges = (random.random((2, 4, 4, 1)) < 0.2).astype("float32")
    logits = random.normal(size=edges.shape).astype("float32")
    found = np.array(example("edge_detector").balanced(edges, logits))
    for i in range(2):
        share = edges[i].mean()
        for y, x in np.ndindex(4, 4):
            edge, p = edges[i, y, x, 0], 1 / (1 + np.exp(-logits[i, y, x, 0]))
            expected = -2 * ((1 - share) * np.log(p) if edge else share * np.log(1 - p))
            assert found[i, y, x] == pytest.approx(expected, rel=1e-4)


def test_a_tiny_object_detector(example, eagerly, tmp_path):
    pytest.importorskip("keras_hub")
    example("detector").main(["--tiny", f"--out={tmp_path}"])
    found = results(tmp_path)
    assert [*found] == ["teacher", "boxes", "logits", "logits and maps"]
    assert all(0 <= row["average precision"] <= 100 for (row,) in found.values())
    assert found["boxes"][0]["network"] * 10 < found["teacher"][0]["network"]


def test_boxes_hold_what_was_drawn(example):
    pytest.importorskip("keras_hub")
    images, labels = example("detector").scenes(4, 32, seed=0)
    assert labels["boxes"].shape == (4, 3, 4) and labels["labels"].shape == (4, 3)
    sides = labels["boxes"][..., 2:] - labels["boxes"][..., :2]
    assert (sides >= 0.2 * 32 - 1e-3).all() and (sides <= 0.45 * 32 + 1e-3).all()
    assert labels["boxes"].min() >= 0 and labels["boxes"].max() <= 32


def test_average_precision(example):
    pytest.importorskip("keras_hub")
    detector = example("detector")
    boxes = np.array([[[0, 0, 10, 10], [20, 20, 30, 30]], [[0, 0, 10, 10], [5, 5, 9, 9]]], float)
    labels = {"boxes": boxes, "labels": np.array([[0, 0], [0, 1]])}
    found = {
        # the first is right, the second finds the same again, the third is another kind's
        "boxes": np.array([[[0, 0, 10, 9], [0, 0, 10, 8], [20, 20, 30, 30]],
                           [[0, 0, 10, 10], [40, 40, 50, 50], [0, 0, 0, 0]]], float),
        "labels": np.array([[0, 0, 1], [0, 0, 0]]),
        "confidence": np.array([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]]),
        "num_detections": np.array([3, 2]),
    }  # fmt: skip
    # of kind 0, by confidence: right, wrong, right, wrong; 3 are there
    assert detector.average_precision(found, labels, 0) == pytest.approx((1 + 2 / 3) / 3)
    assert detector.average_precision(found, labels, 1) == 0
    shares = detector.overlap(np.array([0, 0, 2, 2.0]), np.array([[1, 1, 3, 3], [5, 5, 6, 6.0]]))
    assert shares == pytest.approx([1 / 7, 0])
