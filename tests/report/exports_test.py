"""Exported models are found, and timed by their own runtimes."""

import keras
import numpy as np
import pytest

from keras_distill import export
from keras_distill.report import exports


def test_what_lies_in_a_folder(tmp_path):
    for folder in ("a/1", "a/2.failed"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "saved_model.pb").touch()
    (tmp_path / "b-int8.openvino").mkdir()
    for name in ("b.tflite", "b.onnx", "b.tflite.failed", "b-int8.openvino/model.xml", "notes.txt"):
        (tmp_path / name).touch()
    found = exports.found_in(tmp_path)
    assert found == [str(tmp_path / n) for n in ("a/1", "b-int8.openvino", "b.onnx", "b.tflite")]
    kinds = [exports.format_of(path) for path in found]
    assert kinds == ["serving", "openvino", "onnx", "litert"]
    for name in ("a/2.failed", "b.tflite.failed", "notes.txt"):
        with pytest.raises(ValueError, match="An exported model must be"):
            exports.format_of(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="No such exported model"):
        exports.format_of(tmp_path / "c.onnx")


def test_a_damaged_model_is_said_in_one_line(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "b.onnx").write_text("no model")
    with pytest.raises(RuntimeError, match="b.onnx failed in a new process"):
        exports.measured(tmp_path / "b.onnx", np.zeros((2, 3), "float32"), runs=1)


@pytest.mark.parametrize("kind, package, batch", [("litert", "ai_edge_litert", 4),
                                                  ("onnx", "onnxruntime", None)])  # fmt: skip
def test_costs_and_answers_of_a_format(kind, package, batch, tmp_path):
    pytest.importorskip(package)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)], name="tiny")
    x = np.random.default_rng(0).normal(size=(10, 5)).astype("float32")
    written, = export.write(model, tmp_path, [kind], inputs=x, batch=batch)
    costs, outputs = exports.measured(written.path, x, runs=3)
    assert (costs["format"], costs["quantize"]) == (kind, "none")
    assert costs["size_bytes"] == written.size_bytes
    assert {*costs["latency"]} == ({"4"} if batch else {"1", "32"})
    for size, each in costs["latency"].items():
        assert each["p99_ms"] >= each["median_ms"] > 0
        assert each["per_second"] == pytest.approx(1e3 * int(size) / each["median_ms"])
    answers, = outputs.values()
    np.testing.assert_allclose(answers, keras.ops.convert_to_numpy(model(x)), atol=1e-5)


def test_inputs_and_outputs_named_as_an_argument_of_numpy(tmp_path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("a SavedModel needs TensorFlow")
    x, other = keras.Input((2,), name="file"), keras.Input((2,), name="arr_0")
    sums = keras.layers.Add()([x, other])
    model = keras.Model({"file": x, "arr_0": other}, {"file": sums, "arr_0": other}, name="named")
    given = {"file": np.ones((3, 2), "float32"), "arr_0": np.full((3, 2), 2.0, "float32")}
    found, = export.write(model, tmp_path, inputs=given)  # which reads the outputs back
    _, outputs = exports.measured(found.path, given, runs=1)
    assert {name: each.tolist() for name, each in outputs.items()} == {
        "file": [[3.0, 3.0]] * 3, "arr_0": [[2.0, 2.0]] * 3}  # fmt: skip
