"""A hook as a term of one fit, and as an onlooker."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_distill import Distiller, Term, losses
from keras_distill.callbacks import FeatureHook

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = np.arange(32) % 3
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net(width=4, seed=0, name=None):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,))
    hidden = layers.Dense(width, name="hidden")(inputs)
    hidden = layers.BatchNormalization(name="norm")(hidden)
    return keras.Model(inputs, layers.Dense(3, name="head")(hidden), name=name)


def made(optimizer="adam", **arguments):
    distiller = Distiller(net(), teacher=net(8, seed=1), **arguments)
    distiller.compile(optimizer, CE)
    return distiller


def fitted(distiller, *callbacks, epochs=1):
    return distiller.fit(X, Y, epochs=epochs, verbose=0, callbacks=list(callbacks)).history


def shown(model, layer, x=X):
    return keras.Model(model.inputs, model.get_layer(layer).output)(x).numpy()


def cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    cross = np.linalg.norm(x.T @ y) ** 2
    return cross / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def test_with_a_loss_it_is_a_term_of_this_fit():
    hook = FeatureHook("hidden", "hidden", loss="mse", weight=2.0)
    distiller = made()
    before = distiller.terms[:]
    history = fitted(distiller, hook, epochs=10)
    assert history["hidden"][-1] < history["hidden"][0]
    assert distiller.terms == before and "hidden_projector" in distiller.projectors["hidden"].name
    assert "hidden" not in fitted(distiller)
    again = fitted(distiller, hook)  # its projector is there already
    assert again["hidden"][0] < history["hidden"][0]


def test_its_projector_rests_when_the_fit_is_over(recwarn):
    distiller = made(keras.optimizers.Adam(0.1, weight_decay=0.1))
    fitted(distiller, FeatureHook("hidden", "hidden", loss="mse"))
    before = [v.numpy() for v in distiller.projectors["hidden"].variables]
    fitted(distiller)
    for old, now in zip(before, distiller.projectors["hidden"].variables, strict=True):
        np.testing.assert_array_equal(old, now)
    assert not [w for w in recwarn if "Gradients do not exist" in str(w.message)]


def test_it_trains_as_the_term_does():
    def term():
        return Term("mse", student="hidden", teacher="hidden", weight=0.5, projector="auto",
                    name="hint")  # fmt: skip

    kd = Term(losses.KLDivergence(2.0), name="kd")
    with_term, with_hook = made(terms=[kd, term()]), made(terms=[kd])
    hook = FeatureHook("hidden", "hidden", loss="mse", weight=0.5, name="hint")
    keras.utils.set_random_seed(5)
    one = fitted(with_term, epochs=2)
    keras.utils.set_random_seed(5)
    two = fitted(with_hook, hook, epochs=2)
    np.testing.assert_allclose(one["hint"], two["hint"], rtol=1e-5)
    for a, b in zip(with_term.student.get_weights(), with_hook.student.get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_too_late_for_a_projector_is_said():
    distiller = made()
    fitted(distiller)
    with pytest.raises(ValueError, match="`hidden`.*compile.*again"):
        fitted(distiller, FeatureHook("hidden", "hidden", loss="mse"))
    distiller.compile("adam", CE)
    assert "hidden" in fitted(distiller, FeatureHook("hidden", "hidden", loss="mse"))


def test_a_loss_of_sides_of_different_widths_gets_no_projector():
    class Norms(losses.DistillationLoss):
        same_shape = False

        def call(self, y_true, y_pred):
            return (tf.norm(y_true, axis=-1) - tf.norm(y_pred, axis=-1)) ** 2

    distiller = made()
    fitted(distiller)
    assert "hidden" in fitted(distiller, FeatureHook("hidden", "hidden", loss=Norms()))


def test_it_logs_what_numpy_computes():
    distiller = made(optimizer=keras.optimizers.SGD(0.0))
    hooks = [
        FeatureHook("hidden", "hidden", probe=X[:20]),
        FeatureHook("head", "head", probe=(X[:20], Y[:20]), name="ends"),
    ]
    history = fitted(distiller, *hooks)
    teacher = distiller.teachers["teacher"].model
    s, t = shown(distiller.student, "hidden", X[:20]), shown(teacher, "hidden", X[:20])
    expected = {
        "cka": cka(s, t),
        "student_norm": np.linalg.norm(s, axis=1).mean(),
        "teacher_norm": np.linalg.norm(t, axis=1).mean(),
    }
    for key, value in expected.items():
        assert history[f"hidden_{key}"][-1] == pytest.approx(value, rel=1e-4)
    assert "hidden_cosine" not in history  # of other widths
    s, t = shown(distiller.student, "head", X[:20]), shown(teacher, "head", X[:20])
    cosine = (s * t).sum(1) / np.linalg.norm(s, axis=1) / np.linalg.norm(t, axis=1)
    assert history["ends_cosine"][-1] == pytest.approx(cosine.mean(), abs=1e-4)


def test_other_callbacks_see_its_logs(tmp_path):
    hook = FeatureHook("hidden", "hidden")
    stopper = keras.callbacks.EarlyStopping("hidden_cka", mode="max", min_delta=2.0, patience=1)
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    board = keras.callbacks.TensorBoard(tmp_path / "board")
    history = fitted(made(), hook, stopper, log, board, epochs=5)
    assert len(history["hidden_cka"]) == 2
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert float(rows[0]["hidden_cka"]) == pytest.approx(history["hidden_cka"][0])
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*tfevents*"))
    assert b"epoch_hidden_cka" in written


def test_the_first_batch_is_the_probe():
    """The first that training sees, the same in each epoch, dicts of inputs included."""

    def wrapped(model):
        inputs = {"a": keras.Input((6,), name="a")}
        return keras.Model(inputs, model(inputs["a"]))

    student = wrapped(net(name="net"))
    distiller = Distiller(student, teacher=wrapped(net(8, seed=1, name="net")))
    distiller.compile(keras.optimizers.SGD(0.0), CE)
    hook = FeatureHook("net/hidden", "net/hidden", name="pair")
    history = distiller.fit({"a": X}, Y, batch_size=16, shuffle=False, epochs=2, verbose=0,
                            callbacks=[hook]).history  # fmt: skip
    norm = np.linalg.norm(shown(student.get_layer("net"), "hidden", X[:16]), axis=1).mean()
    assert history["pair_student_norm"] == pytest.approx([norm, norm], rel=1e-4)


def test_self_and_projector():
    own = FeatureHook("head", "hidden", source="self")
    hint = FeatureHook("hidden", "hidden", loss="mse", name="hint", probe=X)
    history = fitted(made(keras.optimizers.Adam(0.01)), own, hint, epochs=8)
    assert 0 <= history["head_hidden_cka"][0] <= 1
    assert history["hint_cosine"][-1] > history["hint_cosine"][0]


@pytest.mark.parametrize(
    "hook, message",
    [
        (lambda: FeatureHook("nowhere", "hidden"), "nowhere.*hidden"),
        (lambda: FeatureHook("hidden", "nowhere"), "nowhere.*hidden"),
        (lambda: FeatureHook("hidden", "hidden", source="other"), "teacher.*other"),
    ],
)
def test_refused_before_the_first_step(hook, message):
    distiller = made()
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        fitted(distiller, hook())
    assert int(distiller.optimizer.iterations) == 0


def test_an_onlooker_of_several_layers_is_refused():
    with pytest.raises(ValueError, match="needs a `loss`.*head"):
        FeatureHook(["hidden", "head"], "hidden")


def test_a_plain_model_is_refused():
    model = net()
    model.compile("sgd", CE)
    with pytest.raises(TypeError, match="Distiller"):
        fitted(model, FeatureHook("hidden", "hidden"))


@pytest.mark.parametrize("source", ["teacher", "self"])
def test_a_hook_draws_the_heat_map_when_the_fit_ends(tmp_path, source):
    path = tmp_path / "cka.png"
    fitted(made(), FeatureHook("hidden", "hidden", source=source, probe=X, heat_map=path))
    assert path.read_bytes().startswith(b"\x89PNG")
