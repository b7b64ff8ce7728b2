"""The signatures of a SavedModel, and what stands beside it."""

import importlib.util
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import export

pytestmark = pytest.mark.usefixtures("saved_models_run_here")

LABELS = ["a", "<b>", "ç ☃"]


def network(shape=(6, 5, 3), dtype="float32"):
    keras.utils.set_random_seed(3)
    inputs = keras.Input(shape, name="image", dtype=dtype)
    x = keras.layers.Flatten()(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(x), name="net")


def signatures(folder):
    loaded = tf.saved_model.load(folder)
    found = dict(loaded.signatures)
    found["owner"] = loaded  # the variables live as long as the object that holds them
    return found


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A student, and the folder of its SavedModel."""
    model = network()
    images = np.random.default_rng(0).random((20, 6, 5, 3))
    provenance = {"teacher": "big <i>", "temperature": 4.0, "metrics": {"accuracy": 0.98}}
    found, = export.write(
        model, tmp_path_factory.mktemp("served"), inputs=images, labels=LABELS, name="net",
        provenance=provenance, image_range=(-1, 1),
    )  # fmt: skip
    return model, found.path


def expected(model, images):
    """The labels and scores in NumPy's own arithmetic."""
    logits = model(images).numpy()
    scores = np.exp(logits - logits.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    order = np.argsort(-scores)
    return np.array([label.encode() for label in LABELS])[order], np.take_along_axis(
        scores, order, 1
    )


@pytest.mark.parametrize("encode", [tf.io.encode_png, tf.io.encode_jpeg])
def test_bytes_of_images_are_decoded_resized_and_scaled(served, encode):
    model, folder = served
    pixels = np.random.default_rng(1).integers(0, 256, (2, 12, 15, 3)).astype("uint8")
    files = [encode(each).numpy() for each in pixels]
    decoded = np.stack([tf.io.decode_image(file).numpy() for file in files]).astype("float32")
    images = tf.image.resize(decoded, (6, 5)).numpy() / 127.5 - 1
    got = signatures(folder)["image_bytes"](images=tf.constant(files))
    names, scores = expected(model, images)
    np.testing.assert_array_equal(got["classes"], names)
    np.testing.assert_allclose(got["scores"], scores, atol=1e-5)


def test_a_grey_image_is_read_with_as_many_channels_as_the_student_takes(served):
    model, folder = served
    grey = np.full((9, 9, 1), 51, "uint8")
    file = tf.io.encode_png(grey).numpy()
    got = signatures(folder)["image_bytes"](images=tf.constant([file]))
    _, scores = expected(model, np.full((1, 6, 5, 3), 51 / 127.5 - 1, "float32"))
    np.testing.assert_allclose(got["scores"], scores, atol=1e-5)


def test_serialized_examples(served):
    model, folder = served
    images = np.random.default_rng(2).random((2, 6, 5, 3)).astype("float32")
    features = [{"image": tf.train.Feature(float_list=tf.train.FloatList(value=each.ravel()))}
                for each in images]  # fmt: skip
    texts = [tf.train.Example(features=tf.train.Features(feature=each)).SerializeToString()
             for each in features]  # fmt: skip
    got = signatures(folder)["examples"](examples=tf.constant(texts))
    names, scores = expected(model, images)
    np.testing.assert_array_equal(got["classes"], names)
    np.testing.assert_allclose(got["scores"], scores, atol=1e-6)


def test_labels_provenance_and_card_stand_beside_the_model(served):
    _, folder = served
    with open(os.path.join(folder, "assets", "labels.txt"), encoding="utf-8") as file:
        assert file.read().split("\n")[:-1] == LABELS
    with open(os.path.join(folder, "assets", "provenance.json"), encoding="utf-8") as file:
        told = json.load(file)
    assert told["temperature"] == 4.0 and told["versions"]["keras"] == keras.version()
    with open(os.path.join(folder, "model_card.md"), encoding="utf-8") as file:
        card = file.read()
    assert "`image` float32 (?, 6, 5, 3) → `logits` float32 (?, 3)" in card
    assert "&lt;b&gt;" in card and "ç ☃" in card and "<i>" not in card and "<b>" not in card


def test_warm_up_requests_are_real_inputs(served):
    pytest.importorskip("tensorflow_serving", reason="pip install keras-distill[serving]")
    from tensorflow_serving.apis import prediction_log_pb2

    model, folder = served
    path = os.path.join(folder, "assets.extra", "tf_serving_warmup_requests")
    records = [record.numpy() for record in tf.data.TFRecordDataset(path)]
    requests = [prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
                for record in records]  # fmt: skip
    images = np.random.default_rng(0).random((20, 6, 5, 3)).astype("float32")
    serve = signatures(folder)["serving_default"]
    for request, size in zip(requests, (1, 8), strict=True):
        assert request.model_spec.name == "net"
        given = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        np.testing.assert_array_equal(given["image"], images[:size])
        assert serve(**{name: tf.constant(value) for name, value in given.items()})


def test_a_model_has_the_signatures_that_suit_it(tmp_path):
    (found,) = export.write(network((4,)), tmp_path)
    assert {*signatures(found.path)} - {"owner"} == {"serve", "serving_default", "classify",
                                                     "examples"}  # fmt: skip
    assert not os.path.exists(os.path.join(found.path, "assets.extra"))  # no real inputs
    (found,) = export.write(network((4,)), tmp_path, signatures=["classify"])
    assert {*signatures(found.path)} - {"owner"} == {"serve", "serving_default", "classify"}


@pytest.mark.parametrize("signature,said", [
    ("image_bytes", "does not take a single image"), ("text", "has no preprocessor"),
    ("generate", "is not a causal language model"), ("predict", "`signatures` may name classify"),
])  # fmt: skip
def test_a_signature_that_does_not_suit_is_refused(signature, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        export.write(network((4,)), tmp_path / "out", signatures=["classify", signature])
    assert os.listdir(tmp_path) == []


def hub():
    return pytest.importorskip("keras_hub").models


def test_text_goes_in_by_the_tasks_preprocessor(tmp_path):
    if importlib.util.find_spec("tensorflow_text") is None:
        pytest.skip("tensorflow-text is not installed")
    models, words = hub(), ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
    preprocessor = models.BertTextClassifierPreprocessor(
        models.BertTokenizer(vocabulary=words), sequence_length=6
    )
    backbone = models.BertBackbone(
        vocabulary_size=8, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=8
    )
    model = models.BertTextClassifier(backbone, num_classes=3, preprocessor=preprocessor)
    found, = export.write(model, tmp_path, name="film", labels=LABELS,
                          signatures=["classify", "text"])  # fmt: skip
    texts = ["good film", "bad"]
    got = signatures(found.path)["text"](text=tf.constant(texts))
    logits = tf.nn.softmax(model.predict(texts, verbose=0)).numpy()
    np.testing.assert_allclose(got["scores"], -np.sort(-logits), atol=1e-5)
    assert str(found).endswith("The server needs the operations of tensorflow-text, for the "
                               "signature `text`.")  # fmt: skip


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    models = hub()
    keras.utils.set_random_seed(0)
    backbone = models.GPT2Backbone(vocabulary_size=20, num_layers=1, num_heads=2, hidden_dim=8,
                                   intermediate_dim=8, max_sequence_length=12)  # fmt: skip
    model = models.GPT2CausalLM(backbone)
    found, = export.write(model, tmp_path_factory.mktemp("lm"), name="lm",
                          signatures=["generate", "generate_sampled"])  # fmt: skip
    return model, signatures(found.path)


IDS = np.array([[3, 4, 5], [7, 8, 0]], "int32")


def generated(found, name, length, end=-1):
    given = {"token_ids": IDS, "padding_mask": IDS > 0, "max_length": np.int32(length),
             "end_token": np.int32(end)}  # fmt: skip
    got = found[name](**{key: tf.constant(value) for key, value in given.items()})
    return got["token_ids"].numpy(), got["padding_mask"].numpy()


def test_tokens_are_generated_as_the_student_does(language_model):
    model, found = language_model
    taken = found["serving_default"].structured_input_signature[1]
    assert {*taken} == {"token_ids", "padding_mask"}
    model.compile(sampler="greedy")
    for length in (6, 10):
        room = [[0, 0], [0, length - 3]]
        prompt = {"token_ids": np.pad(IDS, room), "padding_mask": np.pad(IDS > 0, room)}
        right = model.generate(prompt, stop_token_ids=None)["token_ids"]
        tokens, mask = generated(found, "generate", length)
        np.testing.assert_array_equal(tokens, right)
        assert mask.all()
    end = tokens[0, 5]
    _, cut = generated(found, "generate", 10, end=end)
    first = 3 + list(tokens[0, 3:]).index(end)
    assert cut[0].sum() == first + 1  # the end token is part of the answer, nothing behind it


def test_sampled_tokens_differ_from_call_to_call(language_model):
    _, found = language_model
    drawn = {generated(found, "generate_sampled", 12)[0].tobytes() for _ in range(6)}
    assert len(drawn) > 1
    for each in drawn:
        tokens = np.frombuffer(each, "int32").reshape(2, 12)
        assert (tokens[:, :2] == IDS[:, :2]).all() and tokens.max() < 20
