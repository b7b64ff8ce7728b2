"""Each private name of Keras that the package needs still exists and behaves as it must.

Where one of these fails after an upgrade, `keras_distill/_keras` is the only place to mend.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops
from kinds import X, arrays, dense, nested, stacked, subclassed

from keras_distill._keras import graph, trainer
from keras_distill._keras import layers as keras_layers
from keras_distill._keras.optimizers import scaled


def test_sublayers_are_those_that_a_layer_holds():
    model = nested()
    names = [layer.name for layer in keras_layers.sublayers(model)]
    assert names[1:] == ["encoder", "head"]  # after the input
    every = {layer.name for layer in keras_layers.sublayers(model, recursive=True)}
    assert {"encoder", "inner", "mid", "deep", "first", "head"} <= every
    attention = layers.MultiHeadAttention(2, 2)
    attention.build((None, 3, 4), (None, 3, 4))
    held = {layer.name for layer in keras_layers.sublayers(attention)}
    assert {"query", "key", "value", "attention_output"} <= held


def test_a_built_layer_adopts_others():
    layer = layers.Dense(2)
    layer.build((None, 3))
    keras_layers.adopt(layer, before=layers.Dense(3, name="before"))
    layer.before.build((None, 3))
    assert keras_layers.sublayers(layer) == [layer.before] and len(layer.weights) == 4
    with pytest.raises(ValueError, match="already built"):  # it is locked again
        layer.after = layers.Dense(3)


def test_an_attention_goes_by_its_softmax():
    attention, x = layers.MultiHeadAttention(2, 2), np.ones((1, 3, 4), "float32")
    before, called = attention(x, x), []
    softmax = attention._softmax
    softmax.call = lambda *args, call=softmax.call, **kwargs: called.append(1) or call(
        *args, **kwargs)  # fmt: skip
    attention(x, x)
    assert not called  # where there is no dropout, a fused kernel computes it
    keras_layers.compute_scores(attention)
    np.testing.assert_allclose(arrays(attention(x, x)), arrays(before), atol=1e-6)
    assert called
    keras_layers.compute_scores(layers.Dense(2))  # which attends to nothing


def test_masks_ride_along():
    tensor, mask = ops.ones((2, 3)), ops.ones((2,), "bool")
    assert keras_layers.mask_of(tensor) is None
    keras_layers.set_mask(tensor, mask)
    assert keras_layers.mask_of(tensor) is mask
    keras_layers.set_mask(tensor, None)
    assert keras_layers.mask_of(tensor) is None
    embedded = layers.Embedding(4, 2, mask_zero=True)(np.array([[1, 0]]))
    np.testing.assert_array_equal(arrays(keras_layers.mask_of(embedded)), [[True, False]])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_logits_ride_along(activation):
    function = keras.activations.get(activation)
    assert keras_layers.is_softmax(function) and not keras_layers.is_softmax(keras.activations.relu)
    logits = ops.convert_to_tensor([[1.0, 2.0]])
    tensor = function(logits)
    np.testing.assert_array_equal(arrays(keras_layers.logits_of(tensor)), [[1, 2]])
    assert keras_layers.logits_of(logits) is None
    keras_layers.set_logits(tensor, 2 * logits)
    np.testing.assert_array_equal(arrays(keras_layers.logits_of(tensor)), [[2, 4]])


def test_who_takes_training():
    assert keras_layers.takes_training(layers.Dropout(0.5))
    assert keras_layers.takes_training(nested())
    assert not keras_layers.takes_training(layers.Rescaling(2.0))
    assert not keras_layers.takes_training(lambda x, training: x)


def test_keras_calls_the_method_that_is_called_last_on_the_instance():
    plain, quantized = dense(4, "plain"), dense(4, "quantized")
    with keras.RematScope("full"):
        checkpointed = dense(4, "checkpointed")
    for layer in (plain, quantized, checkpointed):
        layer.build((None, 6))
    quantized.quantize("int8")
    assert keras_layers.is_quantized(quantized) and not keras_layers.is_quantized(plain)
    for layer, name in ((plain, "call"), (quantized, "quantized_call"),
                        (checkpointed, "rematerialized_call")):  # fmt: skip
        assert keras_layers.called_last(layer) == name
        assert _called(layer, name, X)
    assert _called(plain, keras_layers.SYMBOLIC, keras.Input((6,)))


def _called(layer, name, x):
    """Whether a call of the layer looks the method up on the instance, and once."""
    usual, heard = getattr(layer, name), []

    def method(*args, **kwargs):
        heard.append(name)
        return usual(*args, **kwargs)

    layer.__dict__[name] = method
    try:
        layer(x)
    finally:
        del layer.__dict__[name]
    return heard == [name]


def test_which_layers_run_in_a_checkpoint():
    made = {}
    for mode, settings in {
        "full": {},
        "activations": {},
        "larger_than": {"output_size_threshold": 1},
        "list_of_layers": {"layer_names": ["list_of_layers"]},
    }.items():
        with keras.RematScope(mode, **settings):
            made[mode] = dense(4, mode)
    with keras.RematScope("list_of_layers", layer_names=["another"]):
        made["unlisted"] = dense(4, "unlisted")
    made["plain"] = dense(4, "plain")
    found = {mode for mode, layer in made.items() if keras_layers.checkpoints(layer)}
    assert found == {"full", "larger_than", "list_of_layers"}


def test_attention_receives_query_key_and_the_merged_mask():
    import inspect

    attention = layers.MultiHeadAttention(2, 2)
    assert keras_layers.attends(attention) and not keras_layers.attends(dense(2, "plain"))
    parameters = inspect.signature(getattr(attention, keras_layers.ATTENTION)).parameters
    assert {"query", "key", "value", "attention_mask"} <= {*parameters}


def test_ends_of_a_graph_have_the_structure_that_was_given():
    x = {"a": keras.Input((6,), name="a"), "b": keras.Input((6,), name="b")}
    total = layers.Add()([x["a"], x["b"]])
    model = keras.Model(x, {"total": total, "pair": [total, x["a"]]})
    assert graph.inputs(model).keys() == x.keys()
    assert [*graph.outputs(model)] == ["total", "pair"] and len(graph.outputs(model)["pair"]) == 2
    assert graph.output_keys(model) == ["total", "pair"]
    assert graph.output_keys(nested()) == [] and graph.output_keys(subclassed()) == []
    assert graph.inputs(stacked()).shape == (None, 6)
    assert graph.outputs(stacked()).shape == (None, 3)
    assert graph.outputs(subclassed()) is None


class Own(keras.Model):
    def call(self, x):
        return super().call(x * 2.0)


def test_what_is_a_graph_and_what_runs_it():
    x = keras.Input((6,))
    own = Own(x, dense(3, "head")(x))
    late = keras.Sequential([dense(3, "head")])
    graphs = [graph.is_graph(m) for m in (nested(), stacked(), own, late, subclassed())]
    assert graphs == [True, True, True, False, False]
    assert [graph.runs_its_graph(m) for m in (nested(), stacked(), own)] == [True, True, False]
    late(X)
    assert graph.is_graph(late) and graph.runs_its_graph(late)


def test_nodes_are_the_calls_in_the_order_of_their_run():
    first, second, shared = dense(6, "first"), dense(6, "second"), dense(6, "shared")
    x = keras.Input((6,), name="x")
    model = keras.Model(x, second(shared(first(shared(x)))))
    order = [node.operation.name for node in graph.nodes(model)]
    assert order == ["shared", "first", "shared", "second"]
    output = graph.outputs(model)
    assert graph.operation_of(output) is second
    assert graph.producer(output) is graph.nodes(model)[-1]
    assert graph.operation_of(graph.inputs_of(output)[0]) is shared
    middle = graph.nodes(model)[1].outputs
    assert [node.operation.name for node in graph.needed(model, middle)] == ["shared", "first"]


def test_running_all_nodes_is_running_the_model():
    for model in (nested(), stacked()):
        known = graph.run(graph.nodes(model), graph.given(model, X), training=False)
        found = known[id(graph.outputs(model))]
        np.testing.assert_allclose(arrays(found), arrays(model(X)), atol=1e-6)


def test_training_reaches_the_layers_of_a_run():
    x = keras.Input((6,))
    model = keras.Model(x, layers.Dropout(0.9)(x))
    ones = np.ones((50, 6), "float32")
    for training, changed in ((True, True), (False, False), (None, False)):
        known = graph.run(graph.nodes(model), graph.given(model, ones), training)
        assert np.any(arrays(known[id(graph.outputs(model))]) != 1) == changed


@pytest.mark.parametrize("as_list", [False, True])
def test_inputs_are_given_as_the_model_takes_them(as_list):
    x = [keras.Input((6,), name="a"), keras.Input((2,), name="b", dtype="int32")]
    model = keras.Model(x if as_list else {each.name: each for each in x},
                        layers.Concatenate()([x[0], ops.cast(x[1], "float32")]))  # fmt: skip
    b = np.ones((4, 2), "int64")
    given = graph.given(model, {"a": X, "b": b})
    np.testing.assert_array_equal(arrays(given[id(x[0])]), X)
    assert keras.backend.standardize_dtype(given[id(x[1])].dtype) == "int32"


def test_a_graph_is_replayed_on_other_symbols():
    model, x = nested(), keras.Input((6,))
    again = keras.Model(x, graph.replayed(model, x))
    assert [layer.name for layer in again.layers[1:]] == ["encoder", "head"]
    np.testing.assert_allclose(arrays(again(X)), arrays(model(X)), atol=1e-6)


def test_an_optimizer_scales_the_update_and_the_decay_of_each_variable():
    optimizer = keras.optimizers.AdamW(0.5, weight_decay=0.25)
    optimizer.exclude_from_weight_decay(var_names=["unlike"])
    variables = [keras.Variable(np.ones(2, "float32"), name=name) for name in "ab"]
    variables.append(keras.Variable(np.ones(2, "float32"), name="unlike"))
    made = scaled(optimizer, [(variables[0], 0.5), (variables[2], 0.0)])
    gradients = [ops.ones(2) for _ in variables]
    if keras.backend.backend() == "torch":
        import torch

        with torch.no_grad():
            made.apply(gradients, variables)
    else:
        made.apply(gradients, variables)
    # Adam's first step is the rate; decay is rate * 0.25 of the value
    wanted = [1 - 0.25 * 0.25 - 0.25, 1 - 0.5 * 0.25 - 0.5, 1.0]
    for variable, value in zip(variables, wanted):
        np.testing.assert_allclose(arrays(variable), [value] * 2, atol=1e-5)
    assert not optimizer.built and optimizer.weight_decay == made.weight_decay == 0.25


def test_a_schedule_is_kept_as_it_is():
    schedule = keras.optimizers.schedules.CosineDecay(0.5, 4)
    made = scaled(keras.optimizers.SGD(schedule), [])
    assert made._learning_rate is schedule
    assert float(scaled(keras.optimizers.SGD(0.125), []).learning_rate) == 0.125


class _Looks(trainer.LooksFirst, keras.Sequential):
    """Writes down what Keras calls."""

    def look_first(self, iterator=None, data_batch=None):
        self.heard.append("of fit" if data_batch is None else "of a batch")
        if keras.backend.backend() != "tensorflow":
            self.build_as_keras(iterator, data_batch)

    def compute_loss(self, *args, **kwargs):
        self.heard.append("step")
        return super().compute_loss(*args, **kwargs)


def test_a_trainer_looks_at_the_data_before_callbacks_and_steps():
    model = _Looks([keras.Input((6,)), layers.Dense(2)])
    model.heard = []
    heard = model.heard  # Keras keeps a list of its own
    model.compile("sgd", "mse", run_eagerly=True)
    begin = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: heard.append("callback"))
    model.fit(X, X[:, :2], epochs=2, callbacks=[begin], verbose=0)
    assert heard.index("of fit") < heard.index("callback") < len(heard) - heard[::-1].index("step")
    heard.clear()
    model.train_on_batch(X, X[:, :2])
    assert heard[0] == "of a batch"
