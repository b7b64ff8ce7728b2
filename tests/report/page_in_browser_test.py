"""The page as a reader sees it, on a phone and on a screen, light and dark."""

import importlib.util
import pathlib

import numpy as np
import pytest

from keras_distill.report.comparison import Comparison, write_together
from keras_distill.report.recorded import recorded

# Loaded by its path: the tests are not a package.
_spec = importlib.util.spec_from_file_location(
    "browser", pathlib.Path(__file__).with_name("browser.py")
)
browser = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(browser)

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="Chromium is not installed")
TEXT = "A film that goes ON & on, <i>without</i> $an end$. " * 9
LONG = "a_very_long_name_of_a_model_that_has_no_space_in_it_" * 2


def row(name, value, seed):
    random = np.random.default_rng(seed)
    sure = np.sort(random.random(10)).tolist()
    return {
        "model": name, "output": "", "value": value, "low": value - 0.02, "high": value + 0.01,
        "by_seed": [value, value + 0.01], "examples": 500,
        "measures": {"accuracy": value, "nll": 0.3, "expected_calibration_error": 0.02},
        "likeness": {"agreement": 0.9, "top_5_agreement": 0.8, "kl_to_teacher": 0.1},
        "calibration": {"confidence": sure, "accuracy": sure[::-1], "count": [50] * 10},
        "classes": {"accuracy": random.random(3).tolist(), "count": [200, 200, 100]},
        "robustness": {"as it is": value, "noise of 0.3 deviations": value - 0.1},
    }  # fmt: skip


def results(name):
    """What a comparison may hold at its worst: long names, formulas and markup."""
    latency = {"1": {"median_ms": 0.2, "p99_ms": 0.9, "per_second": 5e3}, "32": None}
    cost = {"parameters": 10**9, "operations": 10**10, "size_bytes": 10**9, "latency": latency}
    models = ["teacher", "alone", LONG]
    rows = {name: row(name, 0.9 - i / 50, i) for i, name in enumerate(models)}
    gap = {"value": 0.01, "low": -0.01, "high": 0.02, "won": 1200, "lost": 1100, "p": 0.0001}
    rows[LONG]["difference"] = gap
    shown = {"label": 1, "image": np.eye(8).tolist(),
             "probabilities": {name: [0.2, 0.3, 0.5] for name in models}}  # fmt: skip
    paths = [f"encoder/block_{i}/a_layer_with_a_name" for i in range(20)]
    return {
        "name": name, "task": "classes", "examples": 500, "examples_of_exports": 500,
        "measure": {"name": "accuracy", "heading": "accuracy %", "scale": 100, "lower": False},
        "baseline": "alone", "classes": ["<b>x</b>", r"$\frac{$ and $y$", LONG], "rows": rows,
        "costs": {name: cost for name in models},
        "exported": [{"of": LONG, "format": kind, "quantize": "none", "size_bytes": 4321,
                      "peak_bytes": None, "latency": latency, "student": 0.9,
                      "quality": {"value": 0.9}, "to_the_student": {"agreement": 1.0}}
                     for kind in ("serving", "litert", "onnx", "openvino")],
        "knowledge": {"cka": {LONG: {"cka": np.eye(20).tolist(), "student": paths,
                                     "teacher": paths, "examples": 256}},
                      "soft_targets": [shown, {**shown, "image": [[0, 1]] * 2, "text": TEXT}]},
        "histories": {"alone": [{"loss": [3, 2, 1]}], LONG: [{"loss": [1e-4, 2, 300]}]},
        "provenance": {"command": LONG * 5, "versions": {"keras": "3"}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    arms = {arm: [{LONG: 1.0 + i, "accuracy %": 90.0}, {LONG: 2.0, "accuracy %": 91.0 - i}]
            for i, arm in enumerate(["alone", LONG, "$x$"])}  # fmt: skip
    itself = recorded("a run of any task", arms, {LONG: 4321}, {"alone": [{"loss": [3, 2, 1]}]},
                      {"settings": LONG})  # fmt: skip
    write_together(path, [Comparison(results("<script>one</script>")), Comparison(results(LONG)),
                          Comparison(itself)])  # fmt: skip
    return path


@pytest.mark.parametrize("width, dark", [(360, False), (1400, True)])
def test_nothing_overflows_and_the_console_is_silent(page, tmp_path, width, dark):
    found = browser.looked_at(page, width, tmp_path, dark)
    assert not found["console"]
    assert found["width"] <= width
    assert found["drawings"] == 17
    assert found["columns"] == (1 if width == 360 else 2)
    assert not found["outside"]
    assert found["smallest"] >= 10
    assert found["dark"] == ("rgb(22, 24, 29)" if dark else "rgb(246, 247, 249)")


def test_an_overflow_and_an_error_would_be_seen(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    worse = tmp_path / "worse.html"
    added = '<div style="width:500px">wide</div><script>undefinedFunction()</script></body>'
    worse.write_text(text.replace("</body>", added), encoding="utf-8")
    found = browser.looked_at(worse, 360, tmp_path)
    assert found["width"] > 360 and "undefinedFunction" in "".join(found["console"])
