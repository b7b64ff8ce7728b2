"""The model that stops at the first exit that is sure enough."""

import keras
import numpy as np
import pytest
from keras import layers
from kinds import BACKEND, arrays, compiled, only_tensorflow

from keras_distill import models
from keras_distill.models import Cascade

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(24, 6)).astype("float32") * 3


counted = {}  # on JAX, where a branch that is not taken is traced all the same


@keras.saving.register_keras_serializable(package="cascade_test")
class Counter(layers.Layer):
    """The identity, which counts how often it runs."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), dtype="int32", trainable=False)

    def call(self, x):
        if BACKEND == "jax":
            import jax

            jax.debug.callback(self._ran, x)
        else:
            self.count.assign(self.count + 1)
        return x

    def _ran(self, x):
        counted[self.name] = counted.get(self.name, 0) + 1

    def compute_output_shape(self, shape):
        return shape

    def runs(self):
        if BACKEND == "jax":
            import jax

            jax.effects_barrier()
            return counted.get(self.name, 0)
        return int(self.count)


def net(activation=None):
    x = inputs = keras.Input((6,), name="x")
    features = []
    for depth in range(3):
        x = layers.Dense(5, activation="tanh", name=f"block_{depth}")(x)
        x = Counter(name=f"counter_{depth}")(x)
        features.append(layers.Dense(4, activation=activation, name=f"head_{depth}")(x))
    return keras.Model(inputs, dict(zip(("shallow", "middle", "final"), features)))


def expected(net, threshold, x=X):
    """The answers and exits by the formula, from all outputs."""
    outputs = [arrays(net(x)[name]) for name in ("shallow", "middle", "final")]
    sure = [np.exp(z).max(-1) / np.exp(z).sum(-1) >= threshold for z in outputs]
    exit = np.where(sure[0], 0, np.where(sure[1], 1, 2))
    return np.stack(outputs)[exit, np.arange(len(x))], exit


def middle_threshold(net):
    """One that sends some examples to every exit."""
    for threshold in np.linspace(0.3, 0.95, 60):
        if len(set(expected(net, threshold)[1])) == 3:
            return float(threshold)
    raise AssertionError("no threshold uses all exits")


@pytest.mark.parametrize("batch_size", [24, 5, 1])
def test_answers_are_the_formulas_at_any_batch_size(batch_size):
    model = net()
    threshold = middle_threshold(model)
    early = models.early_exit(model, threshold, with_exit=True)
    found = early.predict(X, batch_size=batch_size, verbose=0)
    answer, exit = expected(model, threshold)
    np.testing.assert_array_equal(found["exit"], exit)
    np.testing.assert_allclose(found["output"], answer, atol=1e-6)


@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
def test_what_lies_deeper_is_not_computed(how):
    model = net()
    threshold = middle_threshold(model)
    run = compiled(models.early_exit(model, threshold), how)
    _, exits = expected(model, threshold)
    run(X[:1])
    for example, exit in enumerate(exits):
        before = [model.get_layer(f"counter_{k}").runs() for k in range(3)]
        run(X[example : example + 1])
        after = [model.get_layer(f"counter_{k}").runs() for k in range(3)]
        assert np.subtract(after, before).tolist() == [1, int(exit >= 1), int(exit >= 2)]


@only_tensorflow
def test_a_saved_model_keeps_the_dynamic_depth(tmp_path):
    model = net()
    early = models.early_exit(model, middle_threshold(model), with_exit=True)
    _, exits = expected(model, middle_threshold(model))
    early.export(tmp_path / "saved", verbose=False)
    import tensorflow as tf

    loaded = tf.saved_model.load(tmp_path / "saved")
    counts = [v for v in loaded.variables if v.dtype == tf.int32]
    for exit in (0, 2):
        example = int(np.argmax(exits == exit))
        before = sum(int(count) for count in counts)
        found = loaded.serve(X[example : example + 1])
        assert int(found["exit"][0]) == exit
        assert sum(int(count) for count in counts) - before == exit + 1
    np.testing.assert_array_equal(loaded.serve(X)["exit"], exits)


@only_tensorflow
def test_the_packages_own_export(tmp_path):
    import tensorflow as tf

    from keras_distill import export

    model = net()
    early = models.early_exit(model, 0.5)
    path = export.write_saved_model(early, tmp_path, labels=["a", "b", "c", "d"])
    served = tf.saved_model.load(path)
    np.testing.assert_allclose(
        next(iter(served.signatures["serving_default"](x=tf.constant(X)).values())),
        early(X),
        atol=1e-6,
    )


def test_saved_and_loaded(tmp_path):
    model = net()
    early = models.early_exit(model, 0.5)
    early.save(tmp_path / "early.keras")
    loaded = keras.models.load_model(tmp_path / "early.keras")
    np.testing.assert_array_equal(arrays(loaded(X)), arrays(early(X)))


def test_softmax_heads_are_not_softened_again():
    model = net("softmax")
    early = models.early_exit(model, 0.6, with_exit=True)
    outputs = arrays(model(X))
    sure = [outputs[name].max(-1) >= 0.6 for name in ("shallow", "middle")]
    exit = np.where(sure[0], 0, np.where(sure[1], 1, 2))
    np.testing.assert_array_equal(arrays(early(X)["exit"]), exit)


def test_thresholds_at_the_ends():
    model = net()
    assert not arrays(models.early_exit(model, 0, with_exit=True)(X)["exit"]).any()
    last = models.early_exit(model, 1)(X)
    np.testing.assert_allclose(arrays(last), arrays(model(X)["final"]), atol=1e-6)


def test_batch_norm_and_dropout_stay_in_inference_mode():
    inputs = keras.Input((6,))
    x = layers.Dropout(0.5)(layers.BatchNormalization(name="norm")(inputs))
    outputs = {"a": layers.Dense(3)(x), "final": layers.Dense(3)(layers.Dense(4)(x))}
    model = keras.Model(inputs, outputs)
    early = models.early_exit(model, 1)
    found = arrays(early(X, training=True))
    np.testing.assert_allclose(found, arrays(model(X)["final"]), atol=1e-6)
    assert not arrays(model.get_layer("norm").moving_mean).any()


def test_evaluate_and_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = net()
    finally:
        keras.config.set_dtype_policy("float32")
    early = models.early_exit(model, 0.5)
    early.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert early.output.dtype == model.output["final"].dtype == "float16"
    assert np.isfinite(early.evaluate(X, np.zeros(24), verbose=0))


def test_a_long_head_is_no_deeper_exit(tmp_path):
    """Exits are asked as the model names them, before and after it is saved."""
    x = inputs = keras.Input((8, 8, 1))
    for block in (1, 2):
        x = layers.Conv2D(4, 3, strides=2, padding="same", name=f"block_{block}")(x)
    plain = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    net = models.add_exits(plain, {"z": "block_1", "a": "block_2"})
    net.save(tmp_path / "net.keras")
    for each in (net, keras.models.load_model(tmp_path / "net.keras")):
        assert Cascade(each, 0.5).exits == ("z", "a", "final")


@pytest.mark.parametrize("threshold", [-0.1, 2, float("nan"), "high", True])
def test_refused_thresholds(threshold):
    with pytest.raises(ValueError, match=r"`threshold` must be in \[0, 1\]. Received"):
        models.early_exit(net(), threshold)


def test_a_model_without_exits():
    plain = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    with pytest.raises(ValueError, match="dict of outputs"):
        models.early_exit(plain, 0.5)


@pytest.mark.parametrize("units, activation", [(1, None), (1, "sigmoid"), (3, "sigmoid")])
def test_exits_are_classifiers_of_two_classes_or_more(units, activation):
    inputs = keras.Input((6,))
    heads = {name: layers.Dense(units, activation)(inputs) for name in ("shallow", "final")}
    with pytest.raises(ValueError, match="at least two classes.*`shallow`"):
        models.early_exit(keras.Model(inputs, heads), 0.5)


def test_exits_agree_whether_they_are_logits():
    inputs = keras.Input((6,))
    heads = {"shallow": layers.Dense(3)(inputs), "final": layers.Dense(3, "softmax")(inputs)}
    with pytest.raises(ValueError, match="All exits must give logits, or all"):
        models.early_exit(keras.Model(inputs, heads), 0.5)
    assert models.early_exit(keras.Model(inputs, heads), 0.5, from_logits=False)
