"""A run watches the tapped layers, and leaves them, Keras and the model as they were."""

import copy
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
from keras import layers, ops
from kinds import BACKEND, X, arrays, compiled, dense, nested, subclassed, tensors

from keras_distill import taps
from keras_distill._keras.layers import logits_of
from keras_distill.taps import recording

IMPORT = """
import keras
from keras.src.ops.operation import Operation

def attributes(kinds):
    return {kind: dict(vars(kind)) for kind in kinds}

kinds = [keras.Layer, keras.Model, Operation, keras.layers.MultiHeadAttention]
try:
    from keras_hub.src.layers.modeling.cached_multi_head_attention import CachedMultiHeadAttention
    from keras_hub.src.models.gemma.gemma_attention import CachedGemmaAttention
    kinds += [CachedMultiHeadAttention, CachedGemmaAttention]
except ImportError:
    pass
before = attributes(kinds)
import keras_distill.taps as taps
assert attributes(kinds) == before, "the import changed a class"
x = keras.Input((3, 4), name="x")
attention = keras.layers.MultiHeadAttention(2, 2, name="attention")
net = keras.Model(x, attention(x, x))
own = {each.name: {*vars(each)} for each in (net, attention)}
taps.run(net, keras.ops.ones((1, 3, 4)), ["attention", "attention:scores", "attention/query"])
taps.shapes(net)
assert attributes(kinds) == before, "a run changed a class"
assert {each.name: {*vars(each)} for each in (net, attention)} == own, "a run left something"
"""


def test_keras_is_as_it_was_before_during_and_after():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


METHODS = {*recording._WRAPPERS} - {"activation"}  # which layers have anyway


def test_during_a_run_only_the_tapped_instances_are_watched():
    model, seen = subclassed(), {}

    def function(x):
        seen.update({layer.name: METHODS & {*vars(layer)} for layer in (model.head, model.stem)})
        return model(x)

    taps.run(function, X, ["output"])
    assert seen == {"head": set(), "stem": set()}
    taps.run(function, X, ["head"], owner=model)
    assert seen == {"head": {"call"}, "stem": set()}
    assert not METHODS & {*vars(model.head)}


def test_a_method_of_the_users_own_stays():
    model = subclassed()
    usual = model.head.call
    model.head.call = doubled = lambda x: 2 * usual(x)
    found = taps.run(model, X, ["head", "output"])
    np.testing.assert_allclose(arrays(found["head"]), arrays(model(X)), atol=1e-6)
    assert model.head.call is doubled


def test_runs_inside_runs_each_hear_what_they_asked_for():
    model = subclassed()
    inner = {}

    def function(x):
        inner.update(taps.run(model, -x, ["head"]))
        return model(x)

    found = taps.run(function, tensors(X), ["stem"], owner=model)
    np.testing.assert_allclose(arrays(inner["head"]), arrays(model(-X)), atol=1e-6)
    np.testing.assert_allclose(arrays(found["stem"]), arrays(model.stem(X)), atol=1e-6)
    assert not recording._watched


def test_threads_hear_their_own_runs():
    model, found, barrier = subclassed(), {}, threading.Barrier(2)

    class Waiting(layers.Layer):
        def call(self, x):
            barrier.wait(10)
            return x

    waiting = Waiting()

    def look(sign):
        found[sign] = taps.run(lambda x: waiting(model(x)), sign * X, ["head", "stem"], owner=model)

    threads = [threading.Thread(target=look, args=(sign,)) for sign in (1.0, -2.0)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for sign in (1.0, -2.0):
        np.testing.assert_allclose(arrays(found[sign]["head"]), arrays(model(sign * X)), atol=1e-6)
    assert not recording._watched


def test_a_copy_that_is_made_during_a_run_is_not_watched():
    model = nested()
    copies = []

    def function(x):
        copies.append(copy.deepcopy(model))
        return model(x)

    taps.run(function, X, ["head"], owner=model)
    for layer in (copies[0].get_layer("head"), model.get_layer("head")):
        assert not METHODS & {*vars(layer)}
    np.testing.assert_allclose(arrays(copies[0](X)), arrays(model(X)), atol=1e-6)


def rematerialized():
    with keras.RematScope("full"):
        block = dense(5, "block")
    x = keras.Input((6,))
    return keras.Model(x, layers.Dense(3, name="head")(block(x)))


def test_a_layer_that_is_rematerialized_is_tapped_with_its_gradient():
    model = rematerialized()
    block = model.get_layer("block")
    wanted = arrays(block(X))
    found = taps.run(model, tensors(X), ["block"])["block"]
    np.testing.assert_allclose(arrays(found), wanted, atol=1e-6)
    assert np.abs(arrays(gradient(model, "block"))).max() > 0


def gradient(model, path):
    """Of the sum of squares at a path by the first kernel."""

    def loss(x):
        return ops.sum(ops.square(taps.run(model, x, [path])[path]))

    variable = model.trainable_variables[0]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss(tensors(X))
        return tape.gradient(value, variable.value)
    if BACKEND == "torch":
        loss(tensors(X)).backward()
        return variable.value.grad
    import jax

    def of(value):
        with keras.StatelessScope([(variable, value)]):
            return loss(tensors(X))

    return jax.jit(jax.grad(of))(variable.value)


class Around(layers.Layer):
    """A layer around a layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = dense(5, "inner")

    def call(self, x):
        return self.inner(x)


@pytest.mark.parametrize("mode", [{"mode": "full"}, {"mode": "list_of_layers",
                                                     "layer_names": ["around"]}])  # fmt: skip
def test_a_tap_inside_of_a_checkpoint_is_refused(mode):
    with keras.RematScope(**mode):
        around = Around(name="around")
    x = keras.Input((6,))
    model = keras.Model(x, around(x))
    with pytest.raises(ValueError, match="because `around` runs under `keras.RematScope`"):
        taps.run(model, X, ["around/inner"])
    if BACKEND == "tensorflow":
        return  # where Keras cannot rematerialize inside a graph
    shapes = taps.shapes(model)
    assert shapes["around"] == (None, 5) and shapes["around/inner"] is None


@pytest.mark.parametrize(
    "head",
    [
        lambda: layers.Dense(3, "softmax", name="head"),
        lambda: layers.Dense(3, "sigmoid", name="head"),
        lambda: layers.Activation("softmax", name="head"),
        lambda: layers.Softmax(name="head"),
    ],
    ids=["softmax", "sigmoid", "activation", "layer"],
)
@pytest.mark.parametrize("how", ["eager", "xla"])
def test_the_logits_behind_a_head_are_known(head, how):
    x = keras.Input((6,))
    made = head()
    hidden = dense(3, "hidden")(x)
    model = keras.Model(x, made(hidden))

    def look(x):
        found = taps.run(model, x, ["output", "head"])
        return found["output"], logits_of(found["output"]), logits_of(found["head"])

    output, logits, tapped = arrays(compiled(look, how)(tensors(X)))
    sigmoid = getattr(made, "activation", None) is keras.activations.sigmoid
    own = ops.sigmoid if sigmoid else ops.softmax
    np.testing.assert_allclose(arrays(own(ops.convert_to_tensor(logits))), output, atol=1e-6)
    np.testing.assert_array_equal(logits, tapped)
    assert np.abs(logits - output).max() > 0.1
