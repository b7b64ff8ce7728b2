"""Shares as asked, measured by hand; frozen, resumed, and without a second trace."""


import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_distill import Distiller, Term, losses
from keras_distill.callbacks import BalanceTerms

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = np.arange(32) % 3
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def data():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)


def net(width=4, seed=0, dropout=0.0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,))
    hidden = layers.Dense(width, name="hidden")(inputs)
    hidden = layers.BatchNormalization()(layers.Dropout(dropout)(hidden))
    return keras.Model(inputs, layers.Dense(3, name="head")(hidden))


def kd(**arguments):
    return Term(losses.KLDivergence(2.0), name="kd", **arguments)


def hint(**arguments):
    return Term("mse", student="hidden", teacher="hidden", projector="auto", name="hint",
                **arguments)  # fmt: skip


def made(terms=None, alpha=0.5, loss=CE, optimizer="sgd", dropout=0.0, **options):
    terms = [kd(), hint()] if terms is None else terms
    student = net(dropout=dropout)
    distiller = Distiller(student, teacher=net(8, seed=1), terms=terms, alpha=alpha)
    distiller.compile(optimizer, loss, **options)
    return distiller


def fitted(distiller, *callbacks, **options):
    keras.utils.set_random_seed(3)  # for the projector
    options = {"batch_size": 32, "shuffle": False, "verbose": 0, **options}
    return distiller.fit(X, Y, callbacks=list(callbacks), **options).history


def balanced(shares, **arguments):
    return BalanceTerms(shares, verbose=0, **arguments)


def contributions(distiller, weights, alpha, by):
    """By hand: the student's own loss of each part, in training mode, on the whole data."""
    student, teacher = distiller.student, distiller.teachers["teacher"].model
    layer = keras.Model(teacher.inputs, teacher.get_layer("hidden").output)
    inner = keras.Model(student.inputs, [student.output, student.get_layer("hidden").output])
    with tf.GradientTape(persistent=True) as tape:
        output, hidden = inner(X, training=True)
        p = tf.nn.softmax(teacher(X) / 2)
        divergence = tf.reduce_sum(p * (tf.math.log(p) - tf.nn.log_softmax(output / 2)), -1)
        projected = distiller.projectors["hint"](hidden)
        parts = {
            "kd": alpha * weights["kd"] * 4 * tf.reduce_mean(divergence),
            "hint": alpha * weights["hint"] * tf.reduce_mean((projected - layer(X)) ** 2),
            "label_loss": (1 - alpha) * CE(Y, output),
        }
    if by == "loss":
        return {name: float(part) for name, part in parts.items()}
    variables = student.trainable_variables
    return {
        name: float(tf.linalg.global_norm(
            [g for g in tape.gradient(part, variables) if g is not None]))
        for name, part in parts.items()
    }  # fmt: skip


@pytest.mark.parametrize("by", ["gradient", "loss"])
def test_each_term_contributes_its_share(by):
    distiller = made(optimizer=keras.optimizers.SGD(0.0))
    history = fitted(distiller, balanced({"kd": 0.5, "hint": 0.2}, by=by), epochs=2)
    weights = {name: history[f"{name}_weight"][-1] for name in ("kd", "hint")}
    parts = contributions(distiller, weights, 0.5, by)
    total = sum(parts.values())
    assert parts["kd"] / total == pytest.approx(0.5, rel=1e-3)
    assert parts["hint"] / total == pytest.approx(0.2, rel=1e-3)
    assert history["kd_weight"][0] == history["kd_weight"][1]  # frozen
    expected = 0.5 * (weights["kd"] * history["kd"][0] + weights["hint"] * history["hint"][0])
    expected += 0.5 * history["label_loss"][0]
    assert history["loss"][0] == pytest.approx(expected, rel=1e-4)  # the step uses them


def test_a_term_without_a_share_keeps_its_weight_and_takes_part():
    distiller = made([kd(weight=0.7), hint(weight=3)], optimizer=keras.optimizers.SGD(0.0))
    history = fitted(distiller, balanced({"hint": 0.25}))
    weights = {"kd": 0.7, "hint": history["hint_weight"][0]}
    parts = contributions(distiller, weights, 0.5, "gradient")
    assert parts["hint"] / sum(parts.values()) == pytest.approx(0.25, rel=1e-3)
    assert "kd_weight" not in history and distiller.terms[0].weight == 0.7


def test_without_labels_the_shares_are_of_the_whole_and_the_sum_stays():
    distiller = made(alpha=1.0, loss=None, optimizer=keras.optimizers.SGD(0.0))
    before = contributions(distiller_looked(distiller), {"kd": 1.0, "hint": 1.0}, 1.0, "gradient")
    history = fitted(distiller, balanced({"kd": 0.9, "hint": 0.1}))
    weights = {name: history[f"{name}_weight"][0] for name in ("kd", "hint")}
    parts = contributions(distiller, weights, 1.0, "gradient")
    assert parts["kd"] / (parts["kd"] + parts["hint"]) == pytest.approx(0.9, rel=1e-3)
    assert parts["kd"] + parts["hint"] == pytest.approx(before["kd"] + before["hint"], rel=1e-3)


def distiller_looked(distiller):
    fitted(distiller, epochs=0)
    return distiller


def test_several_batches_are_averaged_and_the_student_is_left_as_it_was(capsys):
    distiller = distiller_looked(made(dropout=0.5))
    before = [variable.numpy() for variable in distiller.student.variables]
    balance = BalanceTerms({"kd": 0.5}, data=data(), batches=5, by="loss")
    balance.set_model(distiller)
    balance.on_epoch_begin(0)
    for variable, value in zip(distiller.student.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    printed = capsys.readouterr().out
    assert "2/2" in printed and "Weights by loss: kd" in printed


def test_number_weights_are_traced_anew_once_and_variables_never():
    """Another `fit` with the same callback neither measures nor traces again."""
    distiller = made()
    fitted(distiller)
    traced = distiller.train_function
    balance = balanced({"kd": 0.5, "hint": 0.2})
    history = fitted(distiller, balance)
    assert distiller.train_function is not traced
    traced = distiller.train_function
    assert fitted(distiller, balance)["kd_weight"] == history["kd_weight"]
    again = fitted(distiller, balanced({"kd": 0.1, "hint": 0.2}))  # a new one measures anew
    assert again["kd_weight"][0] < history["kd_weight"][0]
    assert distiller.train_function is traced


def test_a_users_variable_is_set():
    weight = keras.Variable(1.0)
    distiller = made([kd(weight=weight)])
    history = fitted(distiller, balanced({"kd": 0.9}))
    assert float(weight) == history["kd_weight"][0] != 1


class PowerCut(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


def test_an_interrupted_fit_resumes_with_its_weights(tmp_path):
    def fit(distiller, *others, backup=True):
        saver = [keras.callbacks.BackupAndRestore(tmp_path / "backup")] if backup else []
        shares = balanced({"kd": 0.5, "hint": 0.2})
        return fitted(distiller, shares, *saver, *others, epochs=3)

    whole, cut, resumed = (made(optimizer=keras.optimizers.Adam(0.05)) for _ in range(3))
    expected = fit(whole, backup=False)
    with pytest.raises(KeyboardInterrupt):
        fit(cut, PowerCut())
    history = fit(resumed)
    assert history["kd_weight"] == expected["kd_weight"][1:]
    for one, other in zip(whole.student.get_weights(), resumed.student.get_weights()):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(shares={"kd": 0.5}, by="size"), "gradient.*size"),
        (dict(shares={"kd": 0}), r"in \(0, 1\].*kd=0"),
        (dict(shares={"kd": 0.7, "hint": 0.7}), "at most 1"),
        (dict(shares={}), "at most 1"),
        (dict(shares={"kd": 0.5}, batches=0), "positive integer.*0"),
    ],
)
def test_refused_when_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        BalanceTerms(**arguments)


@pytest.mark.parametrize(
    "options, shares, message",
    [
        ({}, {"ke": 0.5}, "kd, hint.*`ke`"),
        ({"terms": [kd(weight=lambda step: 0.5)]}, {"kd": 0.5}, "`kd`, because it is a schedule"),
        ({}, {"kd": 0.5, "hint": 0.5}, "less than 1"),
        ({"alpha": 1.0, "loss": None}, {"kd": 0.5, "hint": 0.2}, "sum to 1"),
        ({"alpha": 0.0}, {"kd": 0.5}, "`alpha` is 0"),
        ({"terms": [kd(teacher="output", source="self")]}, {"kd": 0.5}, "gradient of `kd` is"),
    ],
)
def test_refused_before_the_first_step(options, shares, message):
    if options.get("terms") and options["terms"][0].source == "self":
        student = net()
        distiller = Distiller(student, terms=options["terms"])
        distiller.compile("sgd", CE)
    else:
        distiller = made(**options)
    with pytest.raises(ValueError, match=message):
        fitted(distiller, balanced(shares))
    assert int(distiller.optimizer.iterations) == 0
