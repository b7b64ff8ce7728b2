"""A student is written for each place, and gets its name there only if it answers as before."""

import importlib.util
import os

import keras
import numpy as np
import pytest

from keras_distill import _backend, export
from keras_distill.export import exported, formats, given, litert_file, reload

pytestmark = pytest.mark.usefixtures("saved_models_run_here")

WRITERS = {"litert": "ai_edge_quantizer", "onnx": "onnxruntime", "openvino": "openvino"}


def needs(kind):
    """Skips a test where what the format needs is not installed."""
    missing = [
        each for each in formats.FORMATS[kind].packages if not importlib.util.find_spec(each)
    ]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed: pip install keras-distill[export]")


def network(outputs=3, name="small"):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 6, 1), name="image")
    x = keras.layers.Conv2D(4, 3, strides=2, use_bias=False)(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(outputs, name="logits")(x), name=name)


@pytest.fixture(scope="module")
def student():
    return network()


IMAGES = np.random.default_rng(0).normal(size=(40, 6, 6, 1)).astype("float32")


def answers(model):
    return model.predict(IMAGES, verbose=0).argmax(-1)


@pytest.mark.parametrize("quantize", litert_file.QUANTIZATIONS)
def test_litert(student, quantize, tmp_path):
    needs("litert")
    targets = answers(student)
    targets[:4] = (targets[:4] + 1) % 3  # the student is right in 36 of 40
    found, = export.write(student, tmp_path, "litert", quantize=quantize, inputs=IMAGES,
                          targets=targets, name="net")  # fmt: skip
    ending = "" if quantize == "none" else f"-{quantize}"
    assert found.path == str(tmp_path / f"net{ending}.tflite")
    assert os.listdir(tmp_path) == [os.path.basename(found.path)]  # nothing temporary is left
    assert found.batch is None and found.examples == 40 and found.real
    assert found.parity.metric == "accuracy" and found.parity.student == 0.9
    limit = {"none": 1e-5, "float16": 2e-3}.get(quantize, 0.5)
    assert 0 < found.parity.difference <= limit
    assert found.parity.agreement >= 0.9
    assert found.size_bytes == os.path.getsize(found.path)
    assert kinds_of(found.path) == {
        "none": {"float32"}, "float16": {"float16", "float32"},
        "dynamic_int8": {"int8", "float32"}, "int8": {"int8", "float32"},
        "int4": {"int4", "float32"},
    }[quantize]  # fmt: skip


def kinds_of(path):
    """The types of numbers, other than shapes and sums, that a file holds."""
    from ai_edge_litert import schema_py_generated as schema

    with open(path, "rb") as file:
        graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(file.read(), 0)).subgraphs[0]
    names = {v: k.lower() for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
    return {names[each.type] for each in graph.tensors} - {"int32", "int64"}


@pytest.mark.parametrize("kind,quantize", [
    ("onnx", "none"), ("onnx", "dynamic_int8"), ("onnx", "int8"),
    ("openvino", "float16"),
])  # fmt: skip
def test_onnx_and_openvino(student, kind, quantize, tmp_path):
    needs(kind)
    (found,) = export.write(student, tmp_path, kind, quantize=quantize, inputs=IMAGES)
    assert found.parity.difference <= (1e-5 if quantize == "none" else 0.1)
    assert found.parity.agreement >= 0.9 and found.parity.metric is None
    assert "over 40 examples" in str(found)


def two_headed():
    image, side = keras.Input((6, 6, 1), name="image"), keras.Input((2,), name="side")
    x = keras.layers.Concatenate()([keras.layers.Flatten()(image), side])
    outputs = {"late": keras.layers.Dense(3)(x), "early": keras.layers.Dense(2)(x)}
    return keras.Model({"image": image, "side": side}, outputs, name="two")


@pytest.mark.parametrize("kind", ["serving", *WRITERS])
def test_dicts_of_inputs_and_outputs_keep_their_names(kind, tmp_path):
    if kind != "serving":
        needs(kind)
    inputs = {"side": np.ones((40, 2)), "image": IMAGES}
    (found,) = export.write(two_headed(), tmp_path, kind, inputs=inputs)
    assert found.parity.difference <= 1e-5


@pytest.mark.parametrize("kind", ["serving", "litert"])
def test_one_exit_alone(kind, tmp_path):
    if kind != "serving":
        needs(kind)
    inputs = {"side": np.ones((40, 2)), "image": IMAGES}
    (found,) = export.write(two_headed(), tmp_path, kind, exit="early", inputs=inputs)
    assert found.parity.difference <= 1e-5
    with pytest.raises(ValueError, match="`exit` must name one of the student's outputs .*late"):
        export.write(two_headed(), tmp_path / "other", exit="middle", inputs=inputs)
    with pytest.raises(ValueError, match="it has one output"):
        export.write(network(), tmp_path / "other", exit="early")


def test_int8_holds_the_largest_values_of_the_calibration(tmp_path):
    needs("litert")
    keras.utils.set_random_seed(0)
    student = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)], name="value"
    )
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32") ** 3
    spread = np.ptp(student.predict(x, verbose=0))
    found, = export.write(student, tmp_path, "litert", quantize="int8", inputs=x)
    assert found.parity.difference < 0.03 * spread


def test_litert_takes_one_at_a_time_where_it_takes_no_batch(tmp_path):
    needs("litert")
    inputs = keras.Input((5, 3), name="steps")
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.LSTM(4)(inputs)), name="lstm")
    steps = np.random.default_rng(0).normal(size=(5, 5, 3))
    (found,) = export.write(model, tmp_path, "litert", inputs=steps)
    assert found.batch == 1 and "takes batches of 1" in str(found)
    with pytest.raises(ValueError, match="quantizer cannot quantize this model to int8"):
        export.write(model, tmp_path, "litert", quantize="int8", inputs=steps)
    (fixed,) = export.write(network(), tmp_path, "litert", batch=16, inputs=IMAGES)  # 16 + 16 + 8
    assert fixed.batch == 16 and fixed.parity.difference <= 1e-5


def planted(monkeypatch, kind, fault):
    """Has a format write another model than the student."""
    wrong = network()
    weights = wrong.get_weights()
    weights[-1][:] = fault
    wrong.set_weights(weights)
    known = formats.FORMATS[kind]

    def write(model, *args, **kwargs):
        known.write(wrong, *args, **kwargs)

    monkeypatch.setitem(exported.FORMATS, kind, formats.dataclasses.replace(known, write=write))


def test_what_is_wrong_lies_under_a_name_that_no_server_loads(student, tmp_path, monkeypatch):
    needs("litert")
    (tmp_path / "kept").write_text("there before")
    left = {"kept", "small.tflite.failed"}
    for fault, said in [(np.nan, "hold NaN or infinity"), (0.001, "differ from .* by 1.0e-03")]:
        with monkeypatch.context() as patch:
            planted(patch, "litert", fault)
            with pytest.raises(ValueError, match=f"{said}.* no server loads"):
                export.write(student, tmp_path, "litert", inputs=IMAGES)
        assert {*os.listdir(tmp_path)} == left
        left.add("small.tflite.failed-2")


def test_a_quantized_model_is_judged_by_its_answers(student, tmp_path, monkeypatch):
    needs("litert")
    planted(monkeypatch, "litert", [9.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="of the answers. At least 90.0%"):
        export.write(student, tmp_path, "litert", quantize="float16", inputs=IMAGES)
    assert export.write(student, tmp_path, "litert", quantize="float16", inputs=IMAGES, agreement=0)


def test_a_wrong_saved_model_is_not_served(student, tmp_path, monkeypatch):
    (first,) = export.write(student, tmp_path)
    assert first.path == str(tmp_path / "small/1") and not first.real
    assert "over 8 random examples" in str(first)

    def broken(*args):
        raise RuntimeError("killed")

    monkeypatch.setattr(reload, "outputs_of", broken)
    with pytest.raises(ValueError, match="its check: killed. It is kept in .*2.failed"):
        export.write(student, tmp_path)
    assert sorted(os.listdir(tmp_path / "small")) == ["1", "2.failed"]
    monkeypatch.undo()
    assert export.write(student, tmp_path)[0].path == str(tmp_path / "small/2")
    with pytest.raises(FileExistsError, match="never overwritten"):
        export.write(student, tmp_path, version=1)


def test_a_folder_whose_name_is_a_pattern(student, tmp_path):
    folder = tmp_path / "a [1] back\\slash"
    (found,) = export.write(student, folder, inputs=IMAGES)
    assert found.path == str(folder / "small/1") and os.path.isdir(found.path)


BAD_NAMES = ["../up", "..", ".", "a/b", "/absolute", "a b", "<b>", "", "a\\b", "-x", "a\nb"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_names_one_folder(student, name, tmp_path):
    with pytest.raises(ValueError, match="names a folder"):
        export.write(student, tmp_path / "deep" / "out", name=name)
    with pytest.raises(ValueError, match="names a folder"):
        export.write_saved_model(student, tmp_path / "deep" / "out", name=name or "<")
    assert os.listdir(tmp_path) == []


def test_bad_arguments_are_named_and_leave_nothing(student, tmp_path, monkeypatch):
    def refused(said, error=ValueError, model=student, **arguments):
        with pytest.raises(error, match=said):
            export.write(model, tmp_path, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(_backend, "NAME", "jax")
        refused("needs the TensorFlow backend.*Received: jax", error=RuntimeError)
    refused("must be built", model=keras.Sequential([keras.layers.Dense(2)]))
    refused("`formats` must name at least one of serving, litert", formats=["tflite"])
    refused("`formats` must name at least one", formats=[])
    refused("`quantize` must be one of none, float16", quantize="int3")
    refused("cannot be quantized", quantize="int8", inputs=IMAGES)
    refused("`version` must be a positive integer", version=0)
    refused("`agreement` must be from 0 to 1", agreement=90)
    refused("must have the shape .None, 6, 6, 1. for the input 'image'. Received: .40, 36.",
            inputs=IMAGES.reshape(40, 36))  # fmt: skip
    refused(r"must hold an array for each input of the model, \['image'\]", inputs={"x": IMAGES})
    refused("must hold numbers", inputs=np.full((2, 6, 6, 1), "x"))
    refused("at least one", inputs=IMAGES[:0])
    refused("one target for each of the 40 examples. Received: 2", inputs=IMAGES, targets=[1, 2])
    refused("`labels` must hold one name for each", labels=["a"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(r"needs tensorflow, openvino. Run `pip install keras-distill\[export\]`",
            error=ImportError, formats="openvino")  # fmt: skip
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    refused("`openvino` must be one of none, float16", formats="openvino", quantize="int8")
    refused("needs real inputs to calibrate on", formats="litert", quantize="int8")
    refused("`calibration` must have the shape", formats="litert", quantize="int8", inputs=IMAGES,
            calibration=IMAGES[:, :5])  # fmt: skip
    assert os.listdir(tmp_path) == []


BROKEN = IMAGES.copy()
BROKEN[3, 0] = np.nan


@pytest.mark.parametrize("said,arguments", [
    ("`inputs` must hold finite numbers.*6 of 1,440 numbers", {"inputs": BROKEN}),
    ("`calibration` must hold finite numbers", {"inputs": IMAGES, "calibration": BROKEN}),
    ("Rows of different lengths need padding", {"inputs": [[1, 2], [3]]}),
    ("class ids from 0 to 2.*from 7 to 7", {"targets": np.full(40, 7)}),
    ("class ids from 0 to 2.*float64", {"targets": np.full(40, 0.5)}),
    ("class ids from 0 to 2.*<U1", {"targets": np.full(40, "a")}),
    ("class ids from 0 to 2", {"targets": np.full((40, 3), np.nan)}),
    ("`batch` must be a positive integer", {"batch": 0}),
    ("`batch` must be a positive integer", {"batch": "4"}),
    ("`batch` must be a positive integer", {"batch": True}),
    ("`agreement` must be from 0 to 1", {"agreement": "high"}),
    ("`formats` must name", {"formats": None}),
    ("strings of one line each, or integers", {"labels": ["a\nb", "c", "d"]}),
    ("strings of one line each, or integers", {"labels": [1, "c", None]}),
    ("Received: nope", {"signatures": "nope"}),
    ("Add the format `serving`", {"signatures": ["classify"], "formats": "litert"}),
    ("`image_range` must hold", {"image_range": (1, 0)}),
    ("`image_range` must hold", {"image_range": (0, np.nan)}),
    ("`provenance` must be a dict", {"provenance": {"data": {1, 2}}}),
    ("`provenance` must be a dict", {"provenance": {"loss": np.nan}}),
    ("`provenance` must be a dict", {"provenance": ["data"]}),
])  # fmt: skip
def test_what_does_not_fit_is_refused_before_a_write(student, said, arguments, tmp_path):
    if arguments.get("formats") == "litert":
        needs("litert")
    with pytest.raises(ValueError, match=said):
        export.write(student, tmp_path, **{"inputs": IMAGES, **arguments})
    assert os.listdir(tmp_path) == []


def test_a_student_that_cannot_be_run_or_exported_is_refused(tmp_path):
    broken = network(name="broken")
    broken.set_weights([weights * np.nan for weights in broken.get_weights()])
    with pytest.raises(ValueError, match="must be finite.*'broken'"):
        export.write(broken, tmp_path, inputs=IMAGES)
    ids = keras.Input((5,), dtype="int32", name="ids")
    words = keras.Model(ids, keras.layers.Embedding(10, 3)(ids), name="words")
    with pytest.raises(ValueError, match="cannot be run on `inputs`.*99 is not in"):
        export.write(words, tmp_path, inputs=np.full((4, 5), 99))
    with pytest.raises(TypeError, match="must be a `keras.Model`. Received: a Dense"):
        export.write(keras.layers.Dense(3), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="Received a file"):
        export.write(network(), tmp_path / "file", inputs=IMAGES)
    assert os.listdir(tmp_path) == ["file"]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_a_subclassed_model_and_one_of_inputs_without_names(tmp_path):
    needs("litert")
    model = Subclassed()
    model(np.ones((2, 3)))
    (found,) = export.write(model, tmp_path, "litert", inputs=np.eye(3))
    assert found.parity.difference <= 1e-5
    inputs = [keras.Input((3,)), keras.Input((2,))]
    outputs = keras.layers.Dense(2)(keras.layers.Concatenate()(inputs))
    model = keras.Model(inputs, outputs, name="two")
    names = [each.name for each in export.signature_of(model)[0]]
    both = {names[1]: np.eye(2), names[0]: np.eye(3)[:2]}
    (found,) = export.write(model, tmp_path, "litert", inputs=both)
    assert found.parity.difference <= 1e-5


def test_one_hot_targets_are_classes(student):
    expected = np.eye(3)[[0, 1, 1, 2]]
    for targets in (expected, [0, 1, 1, 2], [[0], [1], [1], [2]], [0.0, 1.0, 1.0, 2.0]):
        found = given.checked_targets(targets, {"image": IMAGES[:4]}, expected)
        assert found.tolist() == [0, 1, 1, 2]
    numbers = np.ones((4, 1))
    assert given.checked_targets([1, 2, 3, 4], {"x": numbers}, numbers).tolist() == [1, 2, 3, 4]


def test_a_student_of_strings(tmp_path):
    split = keras.layers.TextVectorization(20, output_sequence_length=4)
    split.adapt(["good film", "bad film"])
    inputs = keras.Input((), dtype="string", name="text")
    x = keras.layers.Flatten()(keras.layers.Embedding(20, 3)(split(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(2)(x), name="film")
    for texts in (["good", "bad film"], np.array([b"good", "ç".encode()], object)):
        (found,) = export.write(model, tmp_path, inputs=texts)
        assert found.parity.difference <= 1e-5
    with pytest.raises(ValueError, match="must hold strings for the input 'text'"):
        export.write(model, tmp_path, inputs=np.zeros(3))
    with pytest.raises(ValueError, match="export the part after its text layer"):
        export.write(model, tmp_path, "litert", inputs=["good"])
    needs("litert")
    part = keras.Model(split.output, model.output, name="part")  # as the message says
    (found,) = export.write(part, tmp_path, "litert", inputs=split(["good", "bad film"]))
    assert found.parity.difference <= 1e-5


@keras.saving.register_keras_serializable("tests")
class Strings(keras.layers.Layer):
    def call(self, x):
        import tensorflow as tf

        return tf.strings.to_number(tf.strings.as_string(x))


def test_an_operation_that_litert_lacks_is_named(tmp_path):
    needs("litert")
    model = keras.Sequential([keras.Input((2,)), Strings()], name="text")
    with pytest.raises(ValueError, match="LiteRT cannot run this model.*AsString"):
        export.write(model, tmp_path, "litert")
    assert os.listdir(tmp_path) == []


def test_onnx_of_a_student_that_augments_its_images_in_training(tmp_path):
    needs("onnx")
    image = keras.Input((6, 6, 1), name="image")
    x = keras.layers.RandomFlip("horizontal")(image)
    x = keras.layers.Flatten()(keras.layers.BatchNormalization()(x))
    student = keras.Model(image, keras.layers.Dense(3, name="logits")(x), name="flips")
    (found,) = export.write(student, tmp_path, "onnx", inputs=IMAGES)
    assert found.parity.difference < 1e-4


def test_arrays_of_any_name_are_written(tmp_path):
    arrays = {name: np.arange(3) + index for index, name in enumerate(("file", "a/b", "arr_0"))}
    reload.write_arrays(tmp_path / "x.npz", arrays)
    with np.load(tmp_path / "x.npz") as found:
        assert {name: each.tolist() for name, each in found.items()} == {
            name: each.tolist() for name, each in arrays.items()
        }
