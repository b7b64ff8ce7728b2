"""Recipes: the published totals, by hand in NumPy."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill import Distiller, models, recipes

X = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype("float32")
Y = np.arange(16) % 3
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def cnn(width, name=None):
    x = inputs = keras.Input((8, 8, 1))
    for block in (1, 2):
        x = layers.Conv2D(width, 3, strides=2, activation="relu", name=f"block_{block}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3)(x), name=name)


def loss_of(net, terms, alpha=0.5):
    """The logged total of one batch, before any update, and the outputs."""
    distiller = Distiller(net, terms=terms, alpha=alpha)
    distiller.compile(keras.optimizers.SGD(0.0), CE)
    outputs = {name: value.numpy() for name, value in net(X, training=True).items()}
    return distiller.train_on_batch(X, Y, return_dict=True)["loss"], outputs


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def ce(z):
    return -log_softmax(z)[np.arange(len(Y)), Y].mean()


def kl(teacher, student, temperature):
    p, q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return temperature**2 * (np.exp(p) * (p - q)).sum(-1).mean()


def test_be_your_own_teacher():
    net = models.add_exits(cnn(4), {"exit_1": "block_1"})
    terms = recipes.byot(net, temperature=3.0, hint=0.1)
    assert [term.name for term in terms] == ["exit_1_from_final", "exit_1_hint"]
    paths = [net.get_layer(name).output for name in ("exit_1_feature", "pool")]
    shallow, deep = keras.Model(net.inputs, paths)(X, training=True)
    loss, z = loss_of(net, terms, alpha=0.3)
    expected = 0.7 * (ce(z["exit_1"]) + ce(z["final"])) + 0.3 * (
        kl(z["final"], z["exit_1"], 3.0) + 0.1 * np.square(shallow - deep).mean()
    )
    assert loss == pytest.approx(expected, rel=1e-5)
    assert len(recipes.byot(net, hint=0)) == 1


def test_mutual_of_three():
    net = models.cohort(a=cnn(2), b=cnn(3), c=cnn(4))
    loss, z = loss_of(net, recipes.mutual("a", "b", "c"))
    peers = [kl(z[j], z[i], 1.0) / 2 for i in z for j in z if i != j]
    assert loss == pytest.approx(0.5 * sum(map(ce, z.values())) + 0.5 * sum(peers), rel=1e-5)


def test_online_is_one_sided_unless_asked():
    net = models.cohort(teacher=cnn(4), student=cnn(2))
    loss, z = loss_of(net, recipes.online(), alpha=0.4)
    labels = 0.6 * (ce(z["teacher"]) + ce(z["student"]))
    there = kl(z["teacher"], z["student"], 1.0)
    assert loss == pytest.approx(labels + 0.4 * there, rel=1e-5)
    loss, z = loss_of(net, recipes.online(back=0.5), alpha=0.4)
    back = kl(z["student"], z["teacher"], 1.0)
    assert loss == pytest.approx(labels + 0.4 * (there + 0.5 * back), rel=1e-5)


def test_the_online_teacher_trains_as_it_would_alone():
    """With its loss weight of `1 / (1 - alpha)` the student's presence changes nothing for it."""
    big = cnn(4)
    alone = keras.models.clone_model(big)
    alone.set_weights(big.get_weights())
    net = models.cohort(teacher=big, student=cnn(2))
    distiller = Distiller(net, terms=recipes.online(), alpha=0.75)
    weights = {"teacher": 4, "student": 1}
    distiller.compile(keras.optimizers.SGD(0.1), dict.fromkeys(weights, CE), loss_weights=weights)
    alone.compile(keras.optimizers.SGD(0.1), CE)
    for model in (distiller, alone):
        model.fit(X, Y, epochs=3, shuffle=False, verbose=0)
    for one, other in zip(big.get_weights(), alone.get_weights()):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_one():
    inputs = keras.Input((8, 8, 1))
    trunk = layers.Flatten(name="trunk")(inputs)
    branches = {f"branch_{k}": layers.Dense(3)(trunk) for k in range(3)}
    net = models.gated_ensemble(keras.Model(inputs, branches), gate="trunk")
    loss, z = loss_of(net, recipes.one(net))
    terms = [kl(z["ensemble"], z[name], 3.0) for name in branches]
    assert loss == pytest.approx(0.5 * sum(map(ce, z.values())) + 0.5 * sum(terms), rel=1e-4)


def test_kdcl():
    net = models.cohort(a=cnn(2), b=cnn(3))
    loss, z = loss_of(net, recipes.kdcl("a", "b", ensemble="mean", temperature=2.0))
    mean = (z["a"] + z["b"]) / 2
    terms = [kl(mean, z[name], 2.0) for name in z]
    assert loss == pytest.approx(0.5 * sum(map(ce, z.values())) + 0.5 * sum(terms), rel=1e-5)


def test_the_one_that_teaches_gets_no_gradient():
    net = models.cohort(a=cnn(2), b=cnn(3))
    distiller = Distiller(net, terms=recipes.online("a", "b"), alpha=1.0)
    distiller.compile(keras.optimizers.SGD(1.0))
    before = net.a.get_weights()
    distiller.fit(X, verbose=0)
    for old, new in zip(before, net.a.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_refused():
    for function in (recipes.mutual, recipes.kdcl):
        with pytest.raises(ValueError, match="at least two members"):
            function("a")
        with pytest.raises(ValueError, match="each once"):
            function("a", "a")
    with pytest.raises(ValueError, match="back.*non-negative"):
        recipes.online(back=-1)
    with pytest.raises(ValueError, match="temperature.*positive"):
        recipes.mutual("a", "b", temperature=0)
    with pytest.raises(ValueError, match="hint"):
        recipes.byot(models.add_exits(cnn(2), {"e": "block_1"}), hint=-1)
    with pytest.raises(ValueError, match="output `final`"):
        recipes.byot(cnn(2))
    with pytest.raises(ValueError, match="output `ensemble`"):
        recipes.one(models.add_exits(cnn(2), {"e": "block_1"}))
