"""Students that simulate integers: what is rounded and where, and that export writes the same."""

import importlib.util

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill import Distiller, Term, export, losses, models, quantized_layers
from keras_distill._keras import layers as keras_layers
from keras_distill.export import litert_file, reload

RNG = np.random.default_rng(0)
IMAGES = RNG.random((200, 8, 8, 2)).astype("float32")


def rounded(weight, bits, per_channel):
    """The formula, one number after the other."""
    found = np.empty(weight.shape)
    most = 2 ** (bits - 1) - 1
    for index in np.ndindex(weight.shape):
        channel = weight[..., index[-1]] if per_channel else weight
        scale = np.abs(channel.astype("float64")).max() / most
        found[index] = np.floor(weight[index] / scale + 0.5) * scale
    return found


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("shape", [(5, 3), (3, 3, 2, 4)])
def test_weights_are_rounded_to_a_symmetric_grid(bits, per_channel, shape):
    weight = RNG.normal(size=shape).astype("float32")
    got = quantized_layers.fake_quantized(weight, bits, per_channel)
    np.testing.assert_allclose(got, rounded(weight, bits, per_channel), atol=1e-6)
    assert len(np.unique(np.asarray(got)[..., 0])) <= 2**bits - 1


def test_a_channel_of_zeros_stays_zero():
    weight = np.zeros((4, 2), "float32")
    weight[:, 1] = [1, -2, 0.5, 0]
    got = np.asarray(quantized_layers.fake_quantized(weight, 8))
    assert (got[:, 0] == 0).all() and np.isfinite(got).all()


def test_a_range_follows_the_training_data():
    layer = quantized_layers.ActivationRange(momentum=0.75)
    batches = [np.array([[-2.0, 6.0]]), np.array([[-4.0, 2.0]]), np.array([[1.0, 3.0]])]
    low, high = None, None
    for each in batches:
        layer(each.astype("float32"), training=True)
        least, most = min(each.min(), 0), max(each.max(), 0)  # zero is always in it
        low = least if low is None else 0.75 * low + 0.25 * least
        high = most if high is None else 0.75 * high + 0.25 * most
        assert float(layer.low) == pytest.approx(low) and float(layer.high) == pytest.approx(high)
    got = np.asarray(layer(np.array([[-50.0, 0.0, 1.0, 50.0]], "float32")))  # follows nothing
    assert float(layer.low) == pytest.approx(low)
    step = (high - low) / 255
    assert got[0, 1] == 0 and abs(got[0, 2] - 1) <= step / 2
    assert abs(got[0, 0] - low) <= step and abs(got[0, 3] - high) <= step


def test_gradients_pass_straight_through_inside_of_the_range():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("reads gradients by TensorFlow's tape")
    import tensorflow as tf

    layer = quantized_layers.ActivationRange()
    layer(np.array([[-1.0, 1.0]], "float32"), training=True)
    x = tf.constant([[-3.0, -0.3, 0.2, 5.0]])
    weight = tf.constant(RNG.normal(size=(4, 3)).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(layer(x) * [[1.0, 2.0, 3.0, 4.0]])
    np.testing.assert_array_equal(tape.gradient(y, x), [[0, 2, 3, 0]])
    with tf.GradientTape() as tape:
        tape.watch(weight)
        y = tf.reduce_sum(quantized_layers.fake_quantized(weight, 4))
    np.testing.assert_allclose(tape.gradient(y, weight), np.ones((4, 3)))


def network(name="net"):
    """A convolution with a normalization, a residual one, and a classifier, trained a little."""
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((8, 8, 2), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="first")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="normal")(x))
    y = layers.Conv2D(8, 3, padding="same", activation="relu", name="second")(x)
    x = layers.MaxPooling2D(name="pool")(layers.Add(name="sum")([x, y]))
    x = layers.Dense(6, activation="relu", name="dense")(x)
    x = layers.Flatten(name="flat")(layers.Dropout(0.1, name="drop")(x))
    model = keras.Model(inputs, layers.Dense(4, name="logits")(x), name=name)
    model.compile(keras.optimizers.Adam(5e-3), LOSS)
    model.fit(IMAGES, TARGETS, epochs=20, verbose=0)
    return model


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SIDES = IMAGES.reshape(200, 2, 4, 2, 4, 2)[..., 0].mean((2, 4)).reshape(200, 4)
TARGETS = SIDES.argmax(-1)  # the brightest quarter of the first channel


def outputs(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


@pytest.fixture(scope="module")
def student():
    return network()


def test_fake_quantization_stands_where_litert_quantizes(student):
    made = models.quantization_aware(student, calibration=IMAGES)
    assert [layer.name for layer in made.layers] == [
        "image", "image_range_0", "first", "relu", "relu_range_1", "second", "second_range_2",
        "sum", "sum_range_3", "pool", "dense", "dense_range_4", "drop", "flat", "logits",
    ]  # fmt: skip
    assert made.name == student.name
    weights = models.quantization_aware(student, weights=4, activations=None)
    assert not [each.name for each in weights.layers if "range" in each.name]
    assert {each.bits for each in weights.layers if hasattr(each, "bits")} == {4}


def test_the_normalization_is_folded_exactly(student):
    made = models.quantization_aware(student, activations=None)
    for layer in made.layers:
        if hasattr(layer, "bits"):
            layer.bits = None  # nothing is rounded
    np.testing.assert_allclose(outputs(made, IMAGES), outputs(student, IMAGES), atol=1e-4)


def test_the_student_stays_as_it_is_and_eight_bits_change_little(student):
    before = student.predict(IMAGES, verbose=0)
    made = models.quantization_aware(student, calibration=IMAGES)
    after = made.predict(IMAGES, verbose=0)
    np.testing.assert_array_equal(student.predict(IMAGES, verbose=0), before)
    assert 0 < np.abs(after - before).max() < 0.1 * np.abs(before).max()


def taught(student, teacher=None, **bits):
    made = models.quantization_aware(student, calibration=IMAGES, **bits)
    distiller = Distiller(made, teacher=teacher or student, terms=[Term(losses.KLDivergence(2.0))])
    distiller.compile(keras.optimizers.Adam(1e-3), LOSS)
    distiller.fit(IMAGES, TARGETS, epochs=1, verbose=0)
    return made


def needs_litert():
    if not all(importlib.util.find_spec(each) for each in litert_file.PACKAGES):
        pytest.skip("pip install keras-distill[export]")


@pytest.mark.parametrize("weights,activations,quantize,largest", [
    (8, 8, "int8", 0.02), (4, 8, "int8", 0.02), (4, None, "int4", 1e-5),
    (8, None, "dynamic_int8", 0.02),
])  # fmt: skip
def test_export_writes_the_integers_that_were_simulated(student, weights, activations, quantize,
                                                        largest, tmp_path):  # fmt: skip
    needs_litert()
    made = taught(student, weights=weights, activations=activations)
    inputs = RNG.random((1000, 8, 8, 2)).astype("float32")
    (found,) = export.write(made, tmp_path, "litert", quantize=quantize, inputs=inputs)
    logits = outputs(made, inputs)
    scale = np.abs(logits).max()
    assert found.parity.difference <= largest * scale
    assert found.parity.agreement >= 0.99
    written = reload.outputs_of("litert", found.path, {"image": inputs})["logits"]
    ordered = np.sort(logits)
    clear = ordered[:, -1] - ordered[:, -2] > 0.02 * scale  # this student is barely trained
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(written.argmax(-1)[clear], logits.argmax(-1)[clear])
    with pytest.raises(ValueError, match=f"Export it with `quantize='{quantize}'`"):
        export.write(made, tmp_path, "litert", quantize="float16", inputs=inputs)


def test_it_is_saved_and_loaded(student, tmp_path):
    made = taught(student)
    made.save(tmp_path / "made.keras")
    loaded = keras.saving.load_model(tmp_path / "made.keras")
    np.testing.assert_array_equal(outputs(loaded, IMAGES), outputs(made, IMAGES))
    for kept, weight in zip(loaded.get_weights(), made.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, weight)  # in floats, so that training goes on exactly
    assert quantized_layers.simulation_of(loaded) == (8, True)
    assert quantized_layers.simulation_of(student) is None


def test_text_and_layers_that_stay_in_floats(tmp_path):
    ids = keras.Input((6,), dtype="int32", name="ids")
    x = layers.Embedding(20, 8, name="words")(ids)
    x = layers.Conv1D(8, 3, padding="same", activation="gelu", name="gelu")(x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.GlobalMaxPooling1D(name="most")(x)
    model = keras.Model(ids, layers.Dense(3, activation="softmax", name="head")(x), name="text")
    made = models.quantization_aware(model)
    given = RNG.integers(0, 20, (300, 6))
    made(given, training=True)
    assert [layer.name for layer in made.layers] == [
        "ids", "words", "gelu", "gelu_range_0", "gelu_activation", "norm", "norm_range_1", "most",
        "head", "head_activation",
    ]  # fmt: skip
    np.testing.assert_allclose(made.predict(given, verbose=0).sum(-1), 1, atol=1e-5)
    needs_litert()
    (found,) = export.write(made, tmp_path, "litert", quantize="int8", inputs=given, agreement=0.95)
    assert found.parity.difference < 0.05


def test_models_in_models_are_opened():
    block = keras.Sequential([keras.Input((8,)), layers.Dense(8), layers.ReLU()], name="block")
    inputs = keras.Input((8,), name="x")
    model = keras.Sequential([inputs, block, layers.Dense(2)], name="whole")
    made = models.quantization_aware(model, calibration=np.ones((4, 8)))
    assert [type(layer).__name__ for layer in made.layers] == [
        "InputLayer", "ActivationRange", "QuantizedDense", "ReLU", "ActivationRange",
        "QuantizedDense",
    ]  # fmt: skip
    x = RNG.random((5, 8)).astype("float32")
    np.testing.assert_allclose(outputs(made, x), outputs(model, x), atol=0.1)


def test_the_dense_layer_is_that_of_keras_for_any_rank():
    for shape in [(5,), (3, 5), (2, 3, 5), (None, 5)]:
        layer = quantized_layers.QuantizedDense(4, bits=8, activation="relu")
        x = RNG.random((2, *(size or 3 for size in shape))).astype("float32")
        inputs = keras.Input(shape)
        model = keras.Model(inputs, layer(inputs))
        kernel, bias = layer.get_weights()
        right = np.maximum(x @ rounded(kernel, 8, True) + bias, 0)
        np.testing.assert_allclose(outputs(model, x), right, atol=1e-5)


def test_what_cannot_be_quantized_is_refused(student):
    with pytest.raises(ValueError, match="`weights` must be 8 or 4.*weights=2"):
        models.quantization_aware(student, weights=2)
    with pytest.raises(ValueError, match="activations=16"):
        models.quantization_aware(student, activations=16)

    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="must be a functional or sequential model"):
        models.quantization_aware(Own(name="own"))
    inputs = keras.Input((3,))
    with pytest.raises(ValueError, match="must have a layer that can be quantized"):
        models.quantization_aware(keras.Model(inputs, layers.LayerNormalization()(inputs)))


def convolutions():
    """A network with a convolution of each kind, and normalizations behind them."""
    keras.utils.set_random_seed(2)
    x = inputs = keras.Input((8, 8, 2), name="image")
    kinds = [
        layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depth"),
        layers.SeparableConv2D(6, 3, strides=2, padding="same", use_bias=False, name="separable"),
        layers.Conv2D(6, 3, groups=3, padding="same", name="grouped"),
        layers.Conv2DTranspose(4, 3, strides=2, padding="same", use_bias=False, name="up"),
    ]
    for kind in kinds:
        x = layers.ReLU()(layers.BatchNormalization()(kind(x)))
    x = layers.Reshape((64, 4))(x)
    x = layers.DepthwiseConv1D(3, activation="silu", name="depth_1d")(x)
    x = layers.SeparableConv1D(4, 3, strides=2, activation="tanh", name="separable_1d")(x)
    x = layers.Conv1DTranspose(3, 3, strides=2, activation="gelu", name="up_1d")(x)
    x = layers.EinsumDense("abc,cde->abde", (61, 2, 3), bias_axes="e", name="einsum")(x)
    x = layers.Flatten()(layers.MaxPooling2D((10, 1))(x))
    model = keras.Model(inputs, layers.Dense(4, name="logits")(x), name="kinds")
    for weight in model.weights:  # no normalization is the identity
        noise = RNG.uniform(0.5, 1.5, weight.shape)
        weight.assign(weight * noise + 0.1 * RNG.random(weight.shape))
    return model


@pytest.fixture(scope="module")
def kinds():
    return convolutions()


def test_each_kind_of_convolution_computes_as_that_of_keras(kinds):
    made = models.quantization_aware(kinds, activations=None)
    named = {layer.name: type(layer).__name__ for layer in made.layers}
    assert named["depth"] == named["separable_depthwise"] == "QuantizedDepthwiseConv2D"
    assert named["separable"] == named["grouped"] == "QuantizedConv2D"
    assert named["up"] == "QuantizedConv2DTranspose" and named["einsum"] == "QuantizedEinsumDense"
    assert named["separable_1d_depthwise"] == "QuantizedDepthwiseConv1D"
    assert named["up_1d"] == "QuantizedConv1DTranspose"
    assert not [name for name in named.values() if name == "BatchNormalization"]
    rounded_away = np.abs(outputs(made, IMAGES) - outputs(kinds, IMAGES)).max()
    for layer in made.layers:
        if hasattr(layer, "bits"):
            layer.bits = None  # nothing is rounded
    exact = np.abs(outputs(made, IMAGES) - outputs(kinds, IMAGES)).max()
    assert exact < 1e-4 and rounded_away > 10 * exact


def test_each_kind_has_the_scales_that_litert_gives_it(kinds):
    made = models.quantization_aware(kinds, weights=4, activations=None)
    for name, axes in [("depth", (2, 3)), ("grouped", (3,)), ("up", (2,)), ("einsum", (1, 2))]:
        layer = made.get_layer(name)
        assert layer.bits == (8 if name in ("depth", "up") else 4)
        kernel = np.asarray(layer.get_weights()[0])
        found = np.moveaxis(np.asarray(layer.rounded()), axes, range(-len(axes), 0))
        flat = np.moveaxis(kernel, axes, range(-len(axes), 0)).reshape(-1, found[0].size)
        flat = flat.reshape(-1, int(np.prod([kernel.shape[axis] for axis in axes])))
        np.testing.assert_allclose(found.reshape(flat.shape), rounded(flat, layer.bits, True),
                                   atol=1e-6)  # fmt: skip
    whole = models.quantization_aware(kinds).get_layer("up")  # there LiteRT has one scale
    kernel = whole.get_weights()[0]
    np.testing.assert_allclose(whole.rounded(), rounded(kernel, 8, False), atol=1e-6)


@pytest.mark.parametrize("weights,activations,quantize", [(8, 8, "int8"), (4, None, "int4")])
def test_each_kind_is_written_as_it_was_simulated(kinds, weights, activations, quantize, tmp_path):
    needs_litert()
    made = models.quantization_aware(kinds, weights, activations, calibration=IMAGES)
    (found,) = export.write(made, tmp_path, "litert", quantize=quantize, inputs=IMAGES)
    scale = np.abs(outputs(made, IMAGES)).max()
    assert found.parity.difference <= (0.03 if activations else 1e-5) * scale
    assert found.parity.agreement >= 0.98


class Scaled(layers.Layer):
    """Holds a matrix of its own."""

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], 4), name="matrix")

    def call(self, x):
        return keras.ops.matmul(x, self.matrix)


def test_what_stays_in_floats_is_said_in_one_line(capsys):
    inputs = keras.Input((6, 4), name="x")
    x = layers.Bidirectional(layers.LSTM(3, name="lstm"), name="both")(Scaled(name="own")(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="head")(x), name="mixed")
    made = models.quantization_aware(model, calibration=np.ones((4, 6, 4)))
    said = capsys.readouterr().out.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("mixed computes these layers in floats")
    assert "own (Scaled)" in said[0] and "LSTMCell" in said[0] and "head" not in said[0]
    x = RNG.random((5, 6, 4)).astype("float32")
    np.testing.assert_allclose(outputs(made, x), outputs(model, x), atol=0.05)


def attention():
    """An attention with an addition around it."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6, 8), name="steps")
    x = layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    x = layers.LayerNormalization(name="norm")(layers.Add(name="sum")([inputs, x]))
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x), name="attends")


STEPS = RNG.normal(size=(300, 6, 8)).astype("float32")


def test_the_products_inside_of_an_attention_are_quantized(tmp_path):
    model = attention()
    made = models.quantization_aware(model, calibration=STEPS)
    block = made.get_layer("attention")
    assert type(block).__name__ == "QuantizedBlock" and block.activations == 8
    inside = [layer for layer in keras_layers.sublayers(block, recursive=True)
              if hasattr(layer, "bits")]  # fmt: skip
    assert [layer.name for layer in inside] == ["attention_output", "value", "key", "query"]
    assert all(layer.before is not None and layer.after is not None for layer in inside)
    assert [layer.name for layer in made.layers if "range" in layer.name] == [
        "steps_range_0", "attention_range_1", "norm_range_2", "mean_range_3",
    ]  # fmt: skip
    after = outputs(made, STEPS)
    assert 0 < np.abs(after - outputs(model, STEPS)).max() < 0.1
    made.save(tmp_path / "made.keras")
    loaded = keras.saving.load_model(tmp_path / "made.keras")
    np.testing.assert_array_equal(outputs(loaded, STEPS), after)
    assert quantized_layers.simulation_of(loaded) == (8, True)
    needs_litert()
    (found,) = export.write(loaded, tmp_path, "litert", quantize="int8", inputs=STEPS)
    written = reload.outputs_of("litert", found.path, {"steps": STEPS})["logits"]
    assert np.mean(np.abs(written - after)) < 0.003 * np.abs(after).max()  # a tie here and there
    assert found.parity.agreement >= 0.98


def test_the_scores_are_rounded_as_litert_rounds_them():
    made = models.quantization_aware(attention(), calibration=STEPS)
    attends = made.get_layer("attention").layer
    _, scores = attends(STEPS, STEPS, return_attention_scores=True)
    steps = 256 * np.asarray(scores)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    with_scores, _ = attends(STEPS, STEPS, return_attention_scores=True)
    np.testing.assert_array_equal(attends(STEPS, STEPS), with_scores)  # and never by a fused kernel


def test_a_backbone_of_keras_hub(tmp_path):
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_hub.models.BertBackbone(30, 1, 2, 8, 16, max_sequence_length=6)
    model = keras_hub.models.BertTextClassifier(backbone, num_classes=3, name="bert")
    for weight in model.weights:
        weight.assign(weight + 0.2 * RNG.normal(size=weight.shape))
    size = (200, 6)
    x = {"token_ids": RNG.integers(0, 30, size), "segment_ids": np.zeros(size, int),
         "padding_mask": np.arange(6) < RNG.integers(2, 7, (200, 1))}  # fmt: skip
    made = models.quantization_aware(model, calibration=x)
    before = model.predict(x, verbose=0)
    assert np.abs(made.predict(x, verbose=0) - before).max() < 0.2 * np.abs(before).max()
    named = {layer.name: type(layer).__name__ for layer in made.layers}
    assert named["transformer_layer_0"] == "QuantizedBlock"
    assert named["token_embedding"] == "QuantizedReversibleEmbedding"
    needs_litert()
    (found,) = export.write(made, tmp_path, "litert", quantize="int8", inputs=x)
    assert found.parity.agreement >= 0.98
