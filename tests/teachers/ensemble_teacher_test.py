"""An ensemble against NumPy, what it refuses, and training with it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_distill import CachedTeacher, Distiller, EnsembleTeacher, Supervision, Term, losses
from keras_distill.batch import Batch

X = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
Y = np.arange(8) % 3
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net(seed=0, width=4, classes=3, activation=None):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,))
    hidden = layers.Dense(width, name="hidden")(inputs)
    return keras.Model(inputs, layers.Dense(classes, activation, name="head")(hidden))


A, B = net(1), net(2, width=5)


def probabilities(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def answer(teacher, paths=("output",), labels=Y, x=X):
    batch = Batch(tf.constant(x), labels, None, None)
    targets = teacher.targets(batch, {}, list(paths))
    return [targets[path].numpy() for path in paths]


@pytest.mark.parametrize("weights, shares", [(None, (0.5, 0.5)), ([3, 1], (0.75, 0.25))])
def test_means_are_numpys(weights, shares):
    z = [A(X).numpy(), B(X).numpy()]
    (logits,) = answer(EnsembleTeacher([A, B], weights=weights, combine="logits"))
    np.testing.assert_allclose(logits, shares[0] * z[0] + shares[1] * z[1], atol=1e-6)
    (mixed,) = answer(EnsembleTeacher([A, B], weights=weights))
    mean = shares[0] * probabilities(z[0]) + shares[1] * probabilities(z[1])
    np.testing.assert_allclose(np.exp(mixed), mean, atol=1e-6)


def by_confidence(doubt):
    e = np.exp(doubt)
    return 1 - e / e.sum(0)  # of two: divided by one


def one_hot(y):
    return np.eye(3, dtype="float32")[y]


@pytest.mark.parametrize("labels", [Y, Y[:, None], one_hot(Y), None, Y[:4]],
                         ids=["ids", "column", "one hot", "none", "of another kind"])  # fmt: skip
def test_confidence_is_the_papers(labels):
    p = np.stack([probabilities(A(X).numpy()), probabilities(B(X).numpy())])
    if labels is None or len(labels) != len(X):
        labels, doubt = None, -(p * np.log(p)).sum(-1)
    else:
        doubt = -np.log(p[:, np.arange(8), Y])
    weights = by_confidence(doubt)
    np.testing.assert_allclose(weights.sum(0), 1, atol=1e-6)
    (mixed,) = answer(EnsembleTeacher([A, B], combine="confidence"), labels=labels)
    np.testing.assert_allclose(np.exp(mixed), (weights[..., None] * p).sum(0), atol=1e-5)


def test_confidence_takes_weights_and_three_members():
    teacher = EnsembleTeacher([A, B, net(3)], weights=[1, 2, 0], combine="confidence")
    p = np.stack([probabilities(model(X).numpy()) for model in (A, B, net(3))])
    e = np.exp(-np.log(p[:, np.arange(8), Y]))
    weights = np.array([1, 2, 0])[:, None] * (1 - e / e.sum(0)) / 2
    weights /= weights.sum(0)
    np.testing.assert_allclose(
        np.exp(answer(teacher)[0]), (weights[..., None] * p).sum(0), atol=1e-5
    )


def test_the_only_member_with_a_weight_counts_however_wrong_it_is():
    def wrong(x):
        return tf.one_hot((Y + 1) % 3, 3) * 100.0

    (mixed,) = answer(EnsembleTeacher([wrong, A], weights=[1, 0], combine="confidence"))
    np.testing.assert_allclose(np.exp(mixed), one_hot((Y + 1) % 3), atol=1e-5)


def test_a_ruled_out_class_and_huge_logits_stay_finite_in_training():
    def padded(x):
        return tf.concat([x[:, :2] * 1e4, tf.fill((tf.shape(x)[0], 1), -np.inf)], axis=-1)

    for combine in ("probabilities", "confidence"):
        student = net(4)
        distiller = Distiller(student, teacher=EnsembleTeacher([padded, padded], combine=combine))
        distiller.compile("sgd", CE)
        distiller.fit(X, Y, verbose=0)
        assert all(np.isfinite(weight).all() for weight in student.get_weights())


def test_layers_of_one_member_and_of_all():
    teacher = EnsembleTeacher({"a": A, "b": B, "c": net(3)})
    assert [part.shape for part in answer(teacher, ["a/hidden", "b/hidden"])] == [(8, 4), (8, 5)]
    np.testing.assert_array_equal(answer(teacher, ["b/output"])[0], B(X).numpy())
    with pytest.raises(ValueError, match=r"same shape at `hidden`.*a, b, c.*4\).*5\)"):
        answer(teacher, ["hidden"])
    a, c = (keras.Model(m.inputs, m.get_layer("hidden").output)(X).numpy() for m in (A, net(3)))
    alike = EnsembleTeacher([A, net(3)], weights=[1, 3])
    np.testing.assert_allclose(answer(alike, ["hidden"])[0], 0.25 * a + 0.75 * c, atol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(teachers=[A]), "at least two.*1"),
        (dict(teachers=[A, B], weights=[1]), r"one for each of the 2.*\[1.0\]"),
        (dict(teachers=[A, B], weights=[1, -1]), "non-negative"),
        (dict(teachers=[A, B], weights=[0, 0]), "not all be zero"),
        (dict(teachers=[A, B], combine="vote"), "confidence.*vote"),
    ],
)
def test_refused_when_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        EnsembleTeacher(**arguments)


@pytest.mark.parametrize(
    "members, message",
    [
        ([A, net(3, classes=4)], r"same shape at `output`.*3\).*4\)"),
        ([A, lambda x: tf.nn.softmax(x[:, :3])], "member `1` gives probabilities"),
        ([A, lambda x: {"a": x}], "several parts"),
    ],
)
def test_refused_before_the_first_update(members, message):
    distiller = Distiller(net(4), teacher=EnsembleTeacher(members))
    distiller.compile("sgd", CE)
    with pytest.raises(ValueError, match=message):
        distiller.fit(X, Y, verbose=0)
    assert int(distiller.optimizer.iterations) == 0


def test_softmax_heads_answer_by_their_logits():
    soft = net(1, activation="softmax")
    np.testing.assert_allclose(
        answer(EnsembleTeacher([soft, B]))[0], answer(EnsembleTeacher([A, B]))[0], atol=1e-6
    )


def test_a_student_learns_from_it_and_from_a_layer_of_one_member():
    hint = Term("mse", student="hidden", teacher="wide/hidden", projector="auto", name="hint")
    ensemble = EnsembleTeacher({"wide": net(2, width=9), "cached": CachedTeacher()})
    distiller = Distiller(
        net(4), teacher=ensemble, terms=[Term(losses.KLDivergence(2.0), name="kd"), hint]
    )
    distiller.compile("adam")
    history = distiller.fit(X, Supervision(Y, A(X).numpy()), epochs=30, verbose=0).history
    assert history["kd"][-1] < history["kd"][0] and history["hint"][-1] < history["hint"][0]
