"""What a step must be on each backend: run by `make test-backends` on JAX and PyTorch, too."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_distill import Distiller, EMATeacher, EnsembleTeacher, Term, losses, models, recipes
from keras_distill.callbacks import BalanceTerms, SelfDistillation

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = np.arange(32) % 3
W = np.linspace(0.5, 2, 32).astype("float32")
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net(width=4, seed=1, dtype=None):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(width, "tanh", name="hidden", dtype=dtype),
            layers.BatchNormalization(name="norm", dtype=dtype),
            layers.Dropout(0.2, dtype=dtype),
            layers.Dense(3, dtype="float32", name="head"),
        ]
    )


def terms():
    return [
        Term(losses.KLDivergence(2.0), name="kd"),
        Term("mse", student="hidden", teacher="hidden", projector="auto", name="hint"),
        Term(losses.SimilarityPreserving(), student="hidden", teacher="hidden", name="relation"),
    ]


def made(student=None, optimizer="adam", **given):
    distiller = Distiller(student or net(), **{"teacher": net(8, 2), "terms": terms(), **given})
    distiller.compile(optimizer, CE, metrics=["accuracy"])
    return distiller


def arrays(model):
    return [np.asarray(weight) for weight in model.get_weights()]


def by_hand(teacher, student, weight):
    def log_softmax(z):
        z = np.asarray(z, "float64") / 2
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    p, q = log_softmax(teacher), log_softmax(student)
    return np.average(4 * (np.exp(p) * (p - q)).sum(-1), weights=weight)


def test_alpha_zero_is_the_students_fit_bit_for_bit():
    alone, student = net(), net()
    alone.compile(keras.optimizers.Adam(0.01), CE, metrics=["accuracy"])
    both = made(student, keras.optimizers.Adam(0.01), alpha=0)
    logs = []
    for model in (alone, both):
        keras.utils.set_random_seed(3)
        logs.append(model.fit(X, Y, batch_size=8, epochs=2, verbose=0, sample_weight=W).history)
    for one, other in zip(arrays(alone), arrays(student), strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(logs[0][name] == pytest.approx(logs[1][name], rel=1e-5) for name in logs[0])


def two_outputs():
    keras.utils.set_random_seed(1)
    x = keras.Input((6,))
    return keras.Model(x, {name: layers.Dense(3, name=name)(x) for name in "ab"})


def test_the_loss_of_each_output_is_logged_as_by_the_students_fit():
    term = Term(losses.KLDivergence(), student="output:a", teacher="output:a")
    distiller = Distiller(two_outputs(), teacher=two_outputs(), terms=[term], alpha=0)
    logs = []
    for model in (two_outputs(), distiller):
        model.compile("sgd", {"a": CE, "b": CE}, loss_weights={"a": 0.3, "b": 2.0})
        labels = {"a": Y, "b": Y[::-1].copy()}
        logs.append(model.fit(X, labels, batch_size=16, shuffle=False, verbose=0).history)
    for name in ("loss", "a_loss", "b_loss"):
        np.testing.assert_allclose(logs[1][name], logs[0][name], rtol=1e-5, err_msg=name)


def test_weights_masks_and_nan_under_the_mask():
    student, teacher = net(), net(8, 2)
    kept = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    weight = np.where(np.arange(32) < 5, 0.0, W).astype("float32")
    marked = np.where(weight[:, None] > 0, X, 99.0).astype("float32")
    wanted = by_hand(ops.convert_to_numpy(teacher(X))[5:], ops.convert_to_numpy(kept(X))[5:], W[5:])
    term = Term(losses.KLDivergence(2.0), name="kd")

    def answer(x):
        return ops.where(x[:, :1] > 50, float("nan"), teacher(x))

    distiller = Distiller(kept, teacher=answer, terms=[term])
    distiller.compile(keras.optimizers.SGD(0.0))
    found = distiller.fit(marked, sample_weight=weight, batch_size=32, verbose=0).history["kd"]
    assert found == pytest.approx([wanted], rel=1e-4)
    assert student.built and np.isfinite(arrays(kept)[0]).all()


def test_projectors_train_and_the_teacher_stays():
    teacher = net(8, 2)
    before = arrays(teacher)
    distiller = made(teacher=teacher, optimizer=keras.optimizers.Adam(0.02))
    distiller.fit(X, Y, epochs=0, verbose=0)
    start = [np.asarray(v) for v in distiller.projectors["hint"].get_weights()]
    history = distiller.fit(X, Y, epochs=20, verbose=0, validation_data=(X, Y)).history
    assert history["loss"][-1] < history["loss"][0] and "val_loss" in history
    moved = [np.asarray(v) for v in distiller.projectors["hint"].get_weights()]
    assert all(not np.array_equal(a, b) for a, b in zip(start[:1], moved[:1]))
    for one, other in zip(before, arrays(teacher), strict=True):
        np.testing.assert_array_equal(one, other)


def test_several_teachers_an_ensemble_and_a_moving_copy():
    ensemble, mean = EnsembleTeacher([net(8, 2), net(6, 3)]), EMATeacher(0.5)
    given = [
        Term(losses.KLDivergence(2.0), source="all", name="all"),
        Term(losses.KLDivergence(1.0), source="mean", name="mean"),
    ]
    student = net()
    distiller = made(student, teacher={"all": ensemble, "mean": mean}, terms=given)
    start = arrays(student)
    distiller.fit(X, Y, batch_size=32, epochs=1, verbose=0)
    for copy, old, new in zip(mean.model.get_weights(), start, arrays(student), strict=True):
        if "float" in str(copy.dtype):
            np.testing.assert_allclose(copy, 0.5 * old + 0.5 * new, rtol=1e-5, atol=1e-6)
    assert int(ops.convert_to_numpy(mean.step)) == 1


def test_a_moving_copy_follows_updates_and_not_batches():
    mean, student = EMATeacher(0.5), net()
    term = Term(losses.KLDivergence(1.0), source="mean", name="mean")
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    distiller = made(student, optimizer, teacher={"mean": mean}, terms=[term])
    distiller.fit(X, Y, batch_size=8, epochs=1, verbose=0)
    assert int(ops.convert_to_numpy(mean.step)) == 2


def test_a_step_that_is_not_finite_keeps_the_last_good_weights():
    good, bad = made(net(), "sgd"), made(net(), "sgd")
    keras.utils.set_random_seed(3)  # of the projector, which the first batch makes
    good.fit(X, Y, batch_size=32, shuffle=False, verbose=0)
    keras.utils.set_random_seed(3)
    spoiled = np.concatenate([X, np.full_like(X, np.nan), X])
    with pytest.raises(ValueError, match="step 1"):
        bad.fit(spoiled, np.tile(Y, 3), batch_size=32, shuffle=False, verbose=0)
    for one, other in zip(arrays(good.student), arrays(bad.student), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.isfinite(bad.fit(X, Y, verbose=0).history["loss"]).all()


def test_a_schedule_and_a_variable_count_as_they_change():
    alpha = keras.Variable(0.5, trainable=False)
    decay = keras.optimizers.schedules.PolynomialDecay(4.0, 4, 1.0)
    term = Term(losses.KLDivergence(decay), name="kd")
    distiller = made(alpha=alpha, terms=[term], optimizer=keras.optimizers.SGD(0.0))
    first = distiller.fit(X, Y, batch_size=32, verbose=0).history
    assert first["loss"][0] == pytest.approx(
        0.5 * first["label_loss"][0] + 0.5 * first["kd"][0], rel=1e-4
    )
    alpha.assign(0.25)
    second = distiller.fit(X, Y, batch_size=32, verbose=0).history
    assert second["loss"][0] == pytest.approx(
        0.75 * second["label_loss"][0] + 0.25 * second["kd"][0], rel=1e-4
    )
    assert second["kd"][0] != first["kd"][0]  # another temperature


def test_exits_and_cohorts():
    inputs = keras.Input((6,))
    middle = layers.Dense(5, "relu", name="middle")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="head")(layers.Dense(5, "relu")(middle)))
    exits = models.add_exits(model, {"early": "middle"})
    cohort = models.cohort(one=net(4, 1), other=net(5, 2))
    for net_of, own in ((exits, recipes.byot(exits)), (cohort, recipes.mutual("one", "other"))):
        distiller = Distiller(net_of, terms=own)
        distiller.compile("adam", CE)
        history = distiller.fit(X, Y, epochs=2, verbose=0).history
        assert np.isfinite(history["loss"]).all()


def test_deep_exits_teach_shallow_ones_by_a_callback():
    inputs = keras.Input((6,))
    middle = layers.Dense(5, "relu", name="middle")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="head")(layers.Dense(5, "relu")(middle)))
    distiller = Distiller(models.add_exits(model, {"early": "middle"}))
    distiller.compile("sgd", CE)
    own = SelfDistillation("final", ["early"], start_epoch=1)
    logs = distiller.fit(X, Y, epochs=2, verbose=0, callbacks=[own]).history
    assert logs["self_distillation"] == [0, 1] and 0 <= logs["early_accuracy"][0] <= 1


def test_mixed_precision_scales_the_loss():
    distiller = made(net(dtype="mixed_float16"), alpha=0.5)
    history = distiller.fit(X, Y, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_balanced_terms_leave_the_users_term_alone():
    own = terms()
    distiller = made(terms=own)
    shares = {"kd": 0.4, "hint": 0.2}
    logs = distiller.fit(X, Y, verbose=0, callbacks=[BalanceTerms(shares, verbose=0)]).history
    assert [term.weight for term in own] == [1.0, 1.0, 1.0]
    assert logs["kd_weight"][0] > 0 and logs["hint_weight"][0] > 0


def test_weights_files_resume_what_trains_beside_the_student(tmp_path):
    distiller = made(teacher={"teacher": net(8, 2), "mean": EMATeacher(0.5)},
                     terms=[*terms(), Term("mse", source="mean", name="mean")])  # fmt: skip
    distiller.fit(X, Y, verbose=0)
    distiller.save_weights(tmp_path / "all.weights.h5")
    again = made(net(seed=5), teacher={"teacher": net(8, 2), "mean": EMATeacher(0.5)},
                 terms=[*terms(), Term("mse", source="mean", name="mean")])  # fmt: skip
    again.fit(X, Y, epochs=0, verbose=0)
    again.load_weights(tmp_path / "all.weights.h5")
    for one, other in (
        (distiller.student, again.student),
        (distiller.projectors["hint"], again.projectors["hint"]),
        (distiller.teachers["mean"].model, again.teachers["mean"].model),
    ):
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    plain = net(seed=6)
    plain.load_weights(tmp_path / "all.weights.h5")
    np.testing.assert_array_equal(plain.get_weights()[0], distiller.student.get_weights()[0])


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's own")
def test_no_array_of_a_teacher_is_a_constant_of_the_compiled_step():
    import jax

    def around(x):  # a function that closes over a model
        return hidden_teacher(x)

    hidden_teacher = net(64, 7)
    distiller = made(
        teacher={"teacher": net(64, 2), "around": around},
        terms=[*terms(), Term(losses.KLDivergence(), source="around", name="around")],
    )
    distiller.fit(X, Y, verbose=0)
    with distiller._in("train"):
        state = tuple([v.value for v in group] for group in distiller.groups())
        traced = jax.make_jaxpr(distiller.train_step)(state, (X, Y))
    sizes = [np.size(constant) for constant in traced.consts]
    assert max(sizes, default=0) <= 4
