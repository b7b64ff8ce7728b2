"""What is written for use elsewhere loads there and computes the same."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import export
from keras_distill.export import reload

CLASSES = 4


def images(count=6):
    return np.random.default_rng(0).normal(size=(count, 5, 5, 1)).astype("float32")


def student(activation=None):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((5, 5, 1), name="image")
    x = keras.layers.Flatten()(keras.layers.Conv2D(3, 3, activation="relu")(inputs))
    return keras.Model(inputs, keras.layers.Dense(CLASSES, activation=activation)(x), name="small")


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def signature(folder, name):
    loaded = tf.saved_model.load(folder)
    found = loaded.signatures[name]
    found.owner = loaded  # the variables live as long as the object that holds them
    return found


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.head = keras.layers.Dense(CLASSES, activation="softmax")

    def call(self, x):
        return self.head(x["a"])


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    model = student()
    folder = export.write_saved_model(
        model,
        tmp_path_factory.mktemp("serving"),
        name="digits",
        labels=["zero", "one", "two", "three"],
    )
    return model, folder


def test_the_layout_is_tf_servings(served):
    _, folder = served
    assert folder.endswith(os.path.join("digits", "1"))
    assert os.listdir(os.path.dirname(folder)) == ["1"]  # nothing temporary is left
    assert os.path.exists(os.path.join(folder, "saved_model.pb"))
    assert os.stat(folder).st_mode & 0o777 == 0o777 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_fresh_process_without_keras_computes_the_same(served):
    model, folder = served
    x = images()
    assert export.check_saved_model(folder, x, model(x).numpy()) <= 1e-5


def test_a_difference_is_an_error(served, monkeypatch):
    model, folder = served
    x = images()
    wrong = model(x).numpy()
    right = {"logits": wrong.copy()}  # what the test above has from a fresh process
    monkeypatch.setattr(reload, "outputs_of", lambda *given: right)
    wrong[2, 1] += 0.5
    with pytest.raises(ValueError, match="largest difference of 0.[45]"):
        export.check_saved_model(folder, {"image": x}, {"logits": wrong})


def test_what_the_fresh_process_says_is_passed_on(monkeypatch, tmp_path):
    script = tmp_path / "says.py"
    script.write_text("import sys; sys.exit('no such op')")
    monkeypatch.setattr(reload, "RUNTIMES", script)
    with pytest.raises(RuntimeError, match="failed in a new process: no such op"):
        export.check_saved_model("anywhere", images(), np.zeros(3))


def test_names_shapes_and_nan_are_compared():
    outputs = {"logits": np.zeros((2, 3))}
    assert reload.largest_difference(outputs, np.full((2, 3), 0.25)) == 0.25
    assert np.isnan(reload.largest_difference(outputs, np.full((2, 3), np.nan)))
    with pytest.raises(ValueError, match="shape"):
        reload.largest_difference(outputs, np.zeros((3, 2)))
    with pytest.raises(ValueError, match="name the exported model's outputs"):
        reload.largest_difference(outputs, {"probabilities": np.zeros((2, 3))})


def test_classify_names_the_likeliest_classes(served):
    model, folder = served
    probabilities = softmax(model(images()).numpy())
    order = np.argsort(-probabilities)[:, :3]
    got = signature(folder, "classify")(image=tf.constant(images()))
    names = np.array([b"zero", b"one", b"two", b"three"])
    np.testing.assert_array_equal(got["classes"], names[order])
    expected = np.take_along_axis(probabilities, order, 1)
    np.testing.assert_allclose(got["scores"], expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["dense", "layer", "sequential", "subclassed"])
def test_a_softmax_is_seen_and_not_applied_twice(kind, tmp_path):
    x = images()
    if kind == "dense":
        model = student("softmax")
    elif kind == "layer":
        bare = student()
        model = keras.Model(bare.input, keras.layers.Softmax()(bare.output))
    elif kind == "sequential":
        model = keras.Sequential([keras.layers.Flatten(), student_head()])
    else:
        model, x = Subclassed(), {"a": x.reshape(6, -1)}
    expected = model(x).numpy()
    folder = export.write_saved_model(model, tmp_path)
    serve = signature(folder, "serving_default")
    name = next(iter(serve.structured_input_signature[1]))
    given = {name: tf.constant(x["a"] if isinstance(x, dict) else x)}
    np.testing.assert_allclose(serve(**given)["probabilities"], expected, atol=1e-6)
    got = signature(folder, "classify")(**given)
    np.testing.assert_allclose(got["scores"], -np.sort(-expected)[:, :3], atol=1e-6)


def student_head():
    return keras.Sequential([keras.layers.Dense(CLASSES), keras.layers.Activation("softmax")])


def test_a_models_own_dicts_keep_their_names(tmp_path):
    ids = keras.Input((3,), dtype="int32", name="token_ids")
    x = keras.layers.Flatten()(keras.layers.Embedding(7, 2)(ids))
    model = keras.Model({"token_ids": ids}, {"a": keras.layers.Dense(2)(x), "b": x})
    serve = signature(export.write_saved_model(model, tmp_path), "serve")
    assert serve.structured_input_signature[1]["token_ids"].dtype == tf.int32
    given = np.array([[1, 2, 3]], "int32")
    got, expected = serve(token_ids=tf.constant(given)), model({"token_ids": given})
    assert set(got) == {"a", "b"}
    np.testing.assert_allclose(got["a"], expected["a"], atol=1e-6)
    with pytest.raises(ValueError, match="`labels` needs a model with one output"):
        export.write_saved_model(model, tmp_path, name="other", labels=["x", "y"])


def test_what_a_preprocessor_makes_is_taken_as_it_is(tmp_path):
    hub = pytest.importorskip("keras_hub").models
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
    preprocessor = hub.BertTextClassifierPreprocessor(
        hub.BertTokenizer(vocabulary=words), sequence_length=6
    )
    backbone = hub.BertBackbone(
        vocabulary_size=8, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=8
    )
    model = hub.BertTextClassifier(backbone, num_classes=2, preprocessor=preprocessor)
    texts = ["good film", "bad"]
    tokens = {name: tf.convert_to_tensor(each) for name, each in preprocessor(texts).items()}
    assert tokens["padding_mask"].dtype == tf.bool
    expected = model.predict(texts, verbose=0)
    serve = signature(export.write_saved_model(model, tmp_path), "serve")
    np.testing.assert_allclose(serve(**tokens)["logits"], expected, atol=1e-5)
    plain = str(tmp_path / "plain")
    model.export(plain, verbose=False, input_signature=export.signature_of(model))
    np.testing.assert_allclose(
        signature(plain, "serving_default")(**tokens)["output_0"], expected, atol=1e-5
    )
    model.preprocessor = None  # then nobody makes booleans
    assert export.signature_of(model)[0]["padding_mask"].dtype == "int32"


def test_a_version_is_never_overwritten(tmp_path):
    folder = tmp_path / "small" / "1"
    folder.mkdir(parents=True)
    with pytest.raises(FileExistsError, match="Delete the folder, or give another `name`"):
        export.write_saved_model(student(), tmp_path)
    assert export.write_saved_model(student(), tmp_path, version=2).endswith("2")
    assert sorted(os.listdir(tmp_path / "small")) == ["1", "2"]


def test_bad_arguments_are_named_and_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match="must be built"):
        export.write_saved_model(keras.Sequential([keras.layers.Dense(2)]), tmp_path)
    with pytest.raises(ValueError, match="one name for each of the 4 classes. Received: 2 labels"):
        export.write_saved_model(student(), tmp_path, labels=["a", "b"])
    with pytest.raises(ValueError, match="`version` must be a positive integer"):
        export.write_saved_model(student(), tmp_path, version=0)
    assert os.listdir(tmp_path) == []


def test_write_student_keeps_the_weights_and_drops_the_optimizer(tmp_path):
    model, path = student(), tmp_path / "made" / "student.keras"
    export.write_student(model, path)
    bare = os.path.getsize(path)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images(), np.zeros(6), verbose=0)
    assert export.write_student(model, path) == str(path)
    assert os.listdir(path.parent) == ["student.keras"]
    assert abs(os.path.getsize(path) - bare) < 200
    loaded = keras.saving.load_model(path)
    assert not loaded.compiled and model.compiled
    np.testing.assert_array_equal(loaded(images()), model(images()))
    with pytest.raises(ValueError, match="must end in '.keras'"):
        export.write_student(model, tmp_path / "student.h5")


def test_random_inputs_are_what_the_model_takes(tmp_path):
    assert export.random_inputs(student(), count=3).shape == (3, 5, 5, 1)
    ids = keras.Input((3,), dtype="int32", name="ids")
    model = keras.Model({"ids": ids}, keras.layers.Embedding(7, 2)(ids))
    found = export.random_inputs(model)
    assert found["ids"].shape == (8, 3) and found["ids"].dtype == "int32"
    model.predict(found, verbose=0)
