"""Teachers in cheaper arithmetic, and teachers of which only a part runs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_distill import Distiller, EnsembleTeacher, ModelTeacher, Term
from keras_distill.batch import Batch
from keras_distill.data.fingerprints import fingerprints_of
from keras_distill.teachers import partial, precision

X = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
Y = np.arange(16) % 3
BATCH = Batch(tf.constant(X), None, None, None)
ran = []


class Recorder(layers.Layer):
    """Notes in `ran` when it runs; TensorFlow may leave it out where nothing needs it."""

    def call(self, x, training=None):
        def note(value):
            ran.append((self.name, training))
            return value

        seen = tf.numpy_function(note, [x], tf.float32, stateful=False)
        return tf.ensure_shape(seen, x.shape)


def functional(inside=False):
    """`block_2`, then `late`, both recorded; `inside` another model, behind a layer."""
    keras.utils.set_random_seed(1)
    inputs = x = keras.Input((6,))
    x = layers.Dense(5, "relu", name="block_2")(Recorder(name="early")(x))
    x = layers.Dense(3, name="head")(layers.Dropout(0.5)(Recorder(name="late")(x)))
    model = keras.Model(inputs, x, name="backbone" if inside else "teacher")
    if not inside:
        return model
    outer = keras.Input((6,))
    x = model(layers.Dense(6, name="stem")(outer))
    return keras.Model(outer, layers.Dense(3)(Recorder(name="late")(x)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.net = functional(inside=True)

    def call(self, x):
        return self.net(x)


def student():
    keras.utils.set_random_seed(2)
    return keras.Sequential([keras.Input((6,)), layers.Dense(5, name="h"), layers.Dense(3)])


def fitted(teacher, term=None, **compiled):
    distiller = Distiller(student(), teacher=teacher, terms=term and [term])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.1), loss, **compiled)
    ran.clear()
    distiller.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    return distiller


@pytest.mark.parametrize("path", ["block_2", "backbone/block_2"])
@pytest.mark.parametrize("eager", [False, True])
def test_what_no_term_names_does_not_run(path, eager):
    teacher = functional(inside="/" in path)
    fitted(teacher, Term("mse", student="h", teacher=path), run_eagerly=eager)
    assert len(ran) == 5 and {name for name, _ in ran} == {"early"}  # the first look, four steps


def test_of_a_subclassed_teacher_a_graph_leaves_out_the_rest():
    teacher = Subclassed()
    teacher(X)
    fitted(teacher, Term("mse", student="h", teacher="net/backbone/block_2"))
    assert len([name for name, _ in ran if name == "late"]) == 2  # once each, in the first look
    assert len([name for name, _ in ran if name == "early"]) == 5


def test_all_of_a_teacher_runs_for_its_output_and_without_dropout():
    fitted(functional())
    assert len(ran) == 10 and {training for _, training in ran} == {False}


def test_a_part_answers_as_the_whole_and_leaves_the_model_as_it_was():
    model = functional(inside=True)
    config, layer = model.get_config(), model.get_layer("backbone").get_layer("block_2")
    paths = ["backbone/block_2", "stem"]
    part = ModelTeacher(model).targets(BATCH, {}, paths)
    whole = ModelTeacher(model).targets(BATCH, {}, [*paths, "output"])
    for path in paths:
        np.testing.assert_array_equal(part[path], whole[path])
    assert model.get_config() == config and layer._dtype_policy.name == "float32"


def test_a_shared_layer_counts_by_its_last_call_in_a_part_too():
    shared, inputs = layers.Dense(6, name="shared"), keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(3)(shared(shared(inputs))))
    with pytest.warns(UserWarning, match="called 2 times"):
        found = ModelTeacher(model).targets(BATCH, {}, ["shared"])["shared"]
    np.testing.assert_allclose(found, shared(shared(X)), atol=1e-6)


def test_a_model_with_a_call_of_its_own_is_not_cut():
    class Own(keras.Model):
        def call(self, x):
            return super().call(x * 2.0)

    inputs = keras.Input((6,))
    model = Own(inputs, layers.Dense(3)(layers.Dense(4, name="block_2")(inputs)))
    assert partial.part_of(model, ["block_2"]) is model


def plain(width=8):
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(width, "relu", name="hidden"), layers.Dense(3)]
    )


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "float16", "int8"])
def test_a_cheaper_teacher_is_near_and_the_model_is_as_it_was(dtype, capsys):
    model = plain()
    weights, expected = model.get_weights(), model(X).numpy()
    teacher = ModelTeacher(model, dtype=dtype)
    distiller = fitted(teacher)
    found = teacher.targets(BATCH, {}, ["output"])["output"]
    assert found.dtype == tf.float32
    assert 1e-6 < np.abs(found - expected).max() < 0.05  # it does compute otherwise
    assert 0 < teacher.errors["output"][1] < precision.MOST_KL
    assert f"runs in {teacher.dtype}" in capsys.readouterr().out
    assert f"in {teacher.dtype}" in _summary(distiller)
    assert {layer.dtype_policy.name for layer in model._flatten_layers()} == {"float32"}
    for own, before in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(own, before)
    np.testing.assert_array_equal(model(X), expected)


def _summary(distiller):
    lines = []
    distiller.summary(print_fn=lambda line, **_: lines.append(line))
    return "\n".join(lines)


def test_a_cheaper_teacher_computes_in_its_precision():
    seen = []

    class Watching(layers.Dense):
        def call(self, x):
            seen.append((x.dtype.name, self.compute_dtype))
            return super().call(x)

    model = keras.Sequential([keras.Input((6,)), Watching(3)])
    seen.clear()
    ModelTeacher(model, dtype="bfloat16").targets(BATCH, {}, ["output"])
    assert seen == [("bfloat16", "bfloat16")]


def test_a_coarse_precision_is_refused():
    model = plain()
    model.layers[0].kernel.assign(model.layers[0].kernel * 1e6)  # beyond float16
    with pytest.raises(ValueError, match="float16 differs too much from .* at `output`.*allowed"):
        fitted(ModelTeacher(model, dtype="float16"))
    members = [ModelTeacher(model, dtype="float16"), plain()]
    with pytest.raises(ValueError, match="float16 differs too much from float32 at `output`"):
        fitted(EnsembleTeacher(members))


def test_features_are_held_against_float32_too():
    teacher = ModelTeacher(plain(), dtype="mixed_bfloat16")
    fitted(teacher, Term("mse", student="h", teacher="hidden", projector="auto"))
    measure, error, bound = teacher.errors["hidden"]
    assert measure == "relative error" and 1e-4 < error < bound


def test_errors_against_numpy():
    random = np.random.default_rng(5)
    one, two = random.normal(size=(2, 4, 3)).astype("float32")
    p, q = (np.exp(v) / np.exp(v).sum(-1, keepdims=True) for v in (one, two))
    found = precision.errors(
        {"output": tf.constant(one), "block": tf.constant(one)},
        {"output": tf.constant(two), "block": tf.constant(two)},
    )
    divergence = sum(p[i, c] * np.log(p[i, c] / q[i, c]) for i in range(4) for c in range(3)) / 4
    np.testing.assert_allclose(found["output"][1], divergence, rtol=1e-5)
    relative = np.sqrt(((one - two) ** 2).sum() / (one**2).sum())
    np.testing.assert_allclose(found["block"][1], relative, rtol=1e-5)
    scores = (
        {"block": tf.constant([[2.0, -1e9, np.nan]])},
        {"block": tf.constant([[1.0, 0.0, 0.0]])},
    )
    assert precision.errors(*scores)["block"][1] == 0.5  # not of what is masked
    padded = tf.constant([[1.0, 2.0, -np.inf], [np.nan] * 3])  # no such word; a masked token
    assert precision.errors({"output": padded}, {"output": padded})["output"][1] == 0


def test_a_compiled_teacher_is_compiled_once_and_keeps_the_logits_behind_a_softmax():
    traced = []

    class Traced(layers.Layer):
        def call(self, x, training=None):
            traced.append(training)
            return x

    model = keras.Sequential([keras.Input((6,)), Traced(), layers.Dense(3, "softmax")])
    traced.clear()
    teacher = ModelTeacher(model, jit_compile=True)
    weights = fitted(teacher).student.get_weights()
    assert traced == [False]  # by the first look; the train function takes the same
    for own, expected in zip(weights, fitted(model).student.get_weights(), strict=True):
        np.testing.assert_allclose(own, expected, atol=1e-6)


@keras.saving.register_keras_serializable("inference_test")
class WithIdleLayer(keras.Model):
    """Has a layer that is not built, as a KerasHub task has its tokenizer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.idle, self.head = layers.Dense(2), layers.Dense(3)

    def call(self, x):
        return self.head(x)


def test_int8_passes_over_layers_that_are_not_built():
    model = WithIdleLayer()
    expected = model(X)
    found = ModelTeacher(model, dtype="int8").targets(BATCH, {}, ["output"])["output"]
    assert 0 < np.abs(found - expected).max() < 0.1


def test_what_cannot_be_cheaper_is_refused():
    with pytest.raises(ValueError, match="must be one of.*int8.*Received: dtype='int4'"):
        ModelTeacher(plain(), dtype="int4")
    with pytest.raises(ValueError, match="needs a Keras model"):
        ModelTeacher(lambda x: x, dtype="float16")
    convolutions = keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(2, 3)])
    with pytest.raises(ValueError, match="no layer that Keras can run in int8"):
        ModelTeacher(convolutions, dtype="int8")
    with pytest.raises(ValueError, match="not built"):
        ModelTeacher(keras.Sequential([layers.Dense(3)]), dtype="int8")


def test_auto_follows_the_machine(monkeypatch):
    for flags, expected in ({"avx2"}, "float32"), ({"avx2", "avx512_bf16"}, "mixed_bfloat16"):
        monkeypatch.setattr(precision, "cpu_flags", lambda flags=flags: flags)
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
        assert ModelTeacher(plain(), dtype="auto").dtype == expected


def test_the_precision_counts_in_a_fingerprint_and_what_was_run_does_not():
    model = plain()
    before = fingerprints_of(ModelTeacher(model))
    used = ModelTeacher(model)
    used.targets(BATCH, {}, ["hidden"])
    assert fingerprints_of(used) == before
    assert fingerprints_of(ModelTeacher(model, dtype="float16")) != before
