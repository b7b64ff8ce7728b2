"""What a distiller refuses, guards and reports."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_distill import (
    CachedTeacher,
    Distiller,
    EnsembleTeacher,
    ModelTeacher,
    Supervision,
    Term,
    losses,
)
from keras_distill.callbacks import TeacherAgreement

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = np.arange(32) % 3
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# For a step or two whose values count: tracing them takes longer than running them.
untraced = pytest.mark.usefixtures("eagerly")


def net(width=4, classes=3, activation=None, name=None):
    inputs = keras.Input((6,))
    hidden = layers.Dense(width, activation="relu", name="hidden")(inputs)
    outputs = layers.Dense(classes, activation=activation, name="head")(hidden)
    return keras.Model(inputs, outputs, name=name)


def made(student=None, teacher=None, loss=CE, optimizer="sgd", **arguments):
    distiller = Distiller(student or net(), teacher=teacher or net(8), **arguments)
    distiller.compile(optimizer, loss)
    return distiller


def weights(model):
    return [variable.numpy().copy() for variable in model.variables]


@untraced
def test_default_is_hintons_loss():
    student, teacher = net(), net(8)
    logits, soft = student(X).numpy(), teacher(X).numpy() / 2
    p = np.exp(soft) / np.exp(soft).sum(-1, keepdims=True)
    q = np.exp(logits / 2) / np.exp(logits / 2).sum(-1, keepdims=True)
    divergence = 4 * (p * np.log(p / q)).sum(-1).mean()
    label = -np.log((np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))[np.arange(32), Y])
    logs = made(student, teacher, optimizer=keras.optimizers.SGD(0.0)).train_on_batch(
        X, Y, return_dict=True
    )
    assert logs["kl_divergence"] == pytest.approx(divergence, rel=1e-5)
    assert logs["label_loss"] == pytest.approx(label.mean(), rel=1e-5)
    assert logs["loss"] == pytest.approx(0.5 * divergence + 0.5 * label.mean(), rel=1e-5)


@pytest.mark.parametrize("several", [False, True])
def test_the_first_step_is_traced_once(monkeypatch, several):
    """Metrics, losses and projectors have their variables before it, else it is traced again."""
    traced, step = [], Distiller.train_step
    monkeypatch.setattr(Distiller, "train_step", lambda *given: traced.append(0) or step(*given))
    student, labels = net(), Y
    loss, metrics = CE, ["accuracy"]
    if several:
        other = layers.Dense(3, name="other")(student.get_layer("hidden").output)
        student = keras.Model(student.input, {"head": student.output, "other": other})
        labels = dict.fromkeys(("head", "other"), keras.utils.to_categorical(Y))
        loss, metrics = "mse", {"head": ["accuracy", "auc"], "other": "mae"}
    hint = Term("mse", student="hidden", teacher="hidden", projector="auto")
    distiller = Distiller(student, teacher=net(8), terms=[hint])
    distiller.compile("adam", loss, metrics=metrics)
    distiller.fit(X, labels, batch_size=8, epochs=2, verbose=0)
    assert len(traced) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"alpha": 1.5}, r"alpha.*\[0, 1\].*1.5"),
        ({"alpha": float("nan")}, r"alpha"),
        ({"terms": [Term("mse", student="nowhere")]}, r"nowhere.*hidden"),
        ({"terms": [Term("mse", student="hidden", teacher="nowhere")]}, r"nowhere.*hidden"),
        ({"terms": [Term("mse", source="other")]}, r"teacher.*other"),
        ({"terms": [Term("mse", name="loss")]}, r"Another term is named `loss`"),
        ({"terms": [Term("mse"), Term("mse")]}, r"name"),
        ({"teacher": {"self": net(8)}}, r"`self` is reserved for the student's own"),
        ({"teacher": {"a": CachedTeacher(), "b": CachedTeacher()}}, r"Only one teacher may be"),
    ],
)
def test_refused_when_made(arguments, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        Distiller(net(), **{"teacher": net(8), **arguments})


def test_what_is_no_student_or_no_term_is_refused():
    with pytest.raises(TypeError, match="student.*keras.Model"):
        Distiller(lambda x: x, teacher=net(8))
    with pytest.raises(TypeError, match=r"Term\(loss\)"):
        Distiller(net(), teacher=net(8), terms=[losses.KLDivergence()])


@untraced
def test_several_teachers_teach_their_shares():
    a, b = net(8), net(8)
    distiller = made(teacher={"a": a, "b": b}, alpha=1.0)
    logs = distiller.train_on_batch(X, Y, return_dict=True)
    shares = [logs["kl_divergence_a"], logs["kl_divergence_b"]]
    assert shares[0] != shares[1]
    np.testing.assert_allclose(logs["loss"], np.mean(shares), rtol=1e-6)


def test_one_teacher_by_another_name():
    assert [term.source for term in Distiller(net(), teacher={"large": net(8)}).terms] == ["large"]


def test_terms_are_attached_all_or_none():
    class Brings(keras.callbacks.Callback):
        terms = [Term("mse", name="good"), Term("mse", student="nowhere", name="bad")]

    distiller = made()
    with pytest.raises(ValueError, match="nowhere"):
        distiller.fit(X, Y, verbose=0, callbacks=[Brings()])
    assert [term.name for term in distiller.terms] == ["kl_divergence"]


@pytest.mark.parametrize("mask", ["padding_mask", 3, ("sample_weight", "weights")])
def test_an_unknown_mask_is_refused(mask):
    with pytest.raises(ValueError, match="`mask` must be.*input:KEY"):
        Term("mse", mask=mask)


def test_a_term_refuses():
    with pytest.raises(ValueError, match="weight.*non-negative.*-1"):
        Term("mse", weight=-1)
    with pytest.raises(ValueError, match="temperature.*positive"):
        losses.KLDivergence(temperature=0)
    with pytest.raises(ValueError, match="weight.*finite.*inf"):
        Term("mse", weight=float("inf"))
    with pytest.raises(ValueError, match="logits"):
        Term("kl_divergence")
    with pytest.raises(TypeError, match="projector"):
        Term("mse", projector=3)


@pytest.mark.parametrize(
    "case, message",
    [
        (dict(teacher=net(8, classes=5)), r"shapes.*classes differ .5 and 3.*ClassSubset"),
        (dict(terms=[Term("mse", student="hidden", teacher="hidden")]), r"projector"),
        (dict(teacher=lambda x: tf.nn.softmax(x[:, :3])), r"probabilities"),
        (dict(teacher=lambda x: x[:, :3] * np.nan), r"NaN.*teacher.*step 0"),
        (dict(loss="sparse_categorical_crossentropy"), r"from_logits=True"),
        (dict(loss=keras.losses.sparse_categorical_crossentropy), r"from_logits=True"),
        (dict(loss=keras.losses.SparseCategoricalCrossentropy(name="ce")), r"from_logits=True"),
        (dict(student=net(activation="softmax")), r"from_logits=False"),
        (dict(loss=keras.losses.CategoricalCrossentropy()), r"from_logits=True"),
        (dict(loss="binary_crossentropy"), r"from_logits=True"),
        (dict(loss=keras.losses.BinaryCrossentropy()), r"from_logits=True"),
        (
            dict(student=net(activation="sigmoid"),
                 loss=keras.losses.BinaryCrossentropy(from_logits=True)),
            r"from_logits=False",
        ),
        (dict(terms=[]), r"No term uses"),
    ],
)
def test_refused_before_the_first_update(case, message):
    distiller = made(**case)
    before = weights(distiller.student)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        distiller.fit(X, Y, verbose=0)
    for old, new in zip(before, weights(distiller.student)):
        np.testing.assert_array_equal(old, new)


def test_labels_out_of_range_at_first_and_later():
    distiller = made()
    with pytest.raises(ValueError, match=r"\[0, 3\).*7"):
        distiller.fit(X, np.full(32, 7), verbose=0)
    distiller.fit(X, Y, verbose=0)
    late = np.where(np.arange(32) < 30, Y, 7)
    with pytest.raises(ValueError, match=r"\[0, 3\).*7"):
        distiller.fit(X, late, batch_size=16, shuffle=False, verbose=0)


def test_no_labels_for_a_loss():
    with pytest.raises(ValueError, match="no labels.*leave the loss out"):
        made().fit(X, verbose=0)


def test_a_teachers_masked_answer_may_be_nan():
    """Where an example counts nothing, its answer is not looked at, in the first batch either."""
    weight = np.where(np.arange(32) == 5, 0.0, 1.0).astype("float32")
    marked = np.where(weight[:, None] > 0, X, 100).astype("float32")
    distiller = made(teacher=lambda x: tf.where(x[:, :1] > 50, np.nan, x[:, :3]))
    history = distiller.fit(marked, Y, sample_weight=weight, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_a_student_without_terms_is_built_by_its_first_batch(tmp_path):
    distiller = Distiller(Unbuilt())
    distiller.compile("sgd", CE)
    distiller.fit(X, Y, epochs=0, verbose=0)
    distiller.save_weights(tmp_path / "all.weights.h5")
    distiller.load_weights(tmp_path / "all.weights.h5")


def test_models_of_different_strategies_are_refused():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        student = net()
    with pytest.raises(ValueError, match="under the same `strategy.scope"):
        Distiller(student, teacher=net(8))


def test_a_teacher_that_moves_with_the_student_is_said():
    student = net()
    with pytest.warns(UserWarning, match="is the student itself.*EMATeacher"):
        Distiller(student, teacher=student)
    inputs = keras.Input((6,))
    around = keras.Model(inputs, layers.Dense(3)(student(inputs)))
    with pytest.warns(UserWarning, match="shares weights with the student.*Freeze"):
        Distiller(student, teacher=around)


class PassesOn(keras.Model):
    """Its `compile` takes what Keras's takes, by no names."""

    def __init__(self):
        super().__init__()
        self.hidden, self.label = layers.Dense(4), layers.Dense(3, name="label")

    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)

    def call(self, x):
        return self.label(self.hidden(x))


@untraced
def test_a_compile_that_passes_its_arguments_on_gets_them_all():
    distiller = Distiller(PassesOn(), teacher=net(8))
    distiller.compile(keras.optimizers.SGD(0.25), CE, metrics=["accuracy"])
    logs = distiller.fit(X, Y, verbose=0).history
    assert {"loss", "label_loss", "accuracy", "kl_divergence"} == {*logs}
    assert float(distiller.student.optimizer.learning_rate) == 0.25


class NamesItsLosses(PassesOn):
    """Its `compile` has its losses under other names, as KerasHub's object detectors."""

    def compile(self, optimizer, label_loss=CE, metrics=None, **kwargs):
        super().compile(optimizer=optimizer, loss=label_loss, metrics=metrics, **kwargs)


@untraced
def test_a_compile_that_names_its_losses_otherwise_gets_no_other():
    distiller = Distiller(NamesItsLosses(), teacher=net(8), alpha=0.5)
    distiller.compile("sgd")
    logs = distiller.fit(X, Y, verbose=0).history
    assert {"loss", "label_loss", "kl_divergence"} == {*logs}
    halves = 0.5 * (logs["label_loss"][0] + logs["kl_divergence"][0])
    assert logs["loss"][0] == pytest.approx(halves, rel=1e-5)


@untraced
def test_a_students_own_label_loss_keeps_its_name():
    inputs = keras.Input((6,))
    outputs = [layers.Dense(3, name="label")(inputs), layers.Dense(3, name="other")(inputs)]
    term = Term(losses.KLDivergence(2.0), student="output:0", name="kd")
    distiller = Distiller(keras.Model(inputs, outputs), teacher=net(8), terms=[term])
    distiller.compile("sgd", {"label": CE, "other": CE})
    logs = distiller.fit(X, (Y, Y), verbose=0).history
    assert logs["distillation_label_loss"][0] == pytest.approx(
        logs["label_loss"][0] + logs["other_loss"][0], rel=1e-5
    )


def test_an_empty_dataset():
    with pytest.raises(ValueError, match="empty"):
        made().fit(tf.data.Dataset.from_tensor_slices((X[:0], Y[:0])).batch(4), verbose=0)


def undefined_above_50(x):
    return tf.where(x[:, :1] > 50, np.nan, x[:, :3])


@pytest.fixture(scope="module")
def one_good_step():
    """A student, and another that began like it and has made one step."""
    inputs = keras.Input((6,))
    student = keras.Model(inputs, layers.Dense(3)(layers.BatchNormalization()(inputs)))
    good = Distiller(keras.models.clone_model(student), teacher=undefined_above_50)
    good.student.set_weights(student.get_weights())
    good.compile(keras.optimizers.Adam(), CE)
    good.fit(X, Y, batch_size=32, shuffle=False, verbose=0)
    return student, good


@pytest.mark.parametrize("settings", [{}, {"jit_compile": True}, {"steps_per_execution": 4},
                                      {"run_eagerly": True}])  # fmt: skip
def test_a_step_that_is_not_finite_keeps_the_last_good_weights(settings, one_good_step):
    first, good = one_good_step
    student = keras.models.clone_model(first)
    student.set_weights(first.get_weights())
    distiller = Distiller(student, teacher=undefined_above_50)
    distiller.compile(keras.optimizers.Adam(), CE, **settings)
    bad = np.concatenate([X, X + 100, X])
    with pytest.raises(ValueError, match="(?s)step 1: the output of `teacher`.*kl_divergence"):
        distiller.fit(bad, np.tile(Y, 3), batch_size=32, shuffle=False, verbose=0)
    for one, other in zip(student.weights, good.student.weights):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-5)
    distiller.fit(X, Y, verbose=0)  # and training goes on


def test_an_overflow_under_a_loss_scale_is_the_scales_own_business():
    student = net()
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=3e38)
    distiller = made(student, optimizer=scaled)
    before = weights(student)
    history = distiller.fit(50 * X, Y, batch_size=32, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert float(scaled.dynamic_scale.numpy()) < 2e38
    for old, new in zip(before, weights(student)):
        np.testing.assert_array_equal(old, new)


def grows(start, by):
    return lambda step: start + by * keras.ops.cast(step, "float32")


STRAYED = {
    "alpha": (lambda: {"alpha": grows(0.5, 0.2)}, r"`alpha` must be in \[0, 1\].*1.1"),
    "weight": (
        lambda: {"terms": [Term("mse", weight=grows(1.0, -0.4), name="hint")]},
        "`hint_weight` must be non-negative.*-0.2",
    ),
    "temperature": (
        lambda: {"terms": [Term(losses.KLDivergence(grows(3.0, -1.0)), name="kd")]},
        "`kd_temperature` must be positive.*=0",
    ),
}


@functools.cache
def three_steps_inside(case):
    """A student, and a distiller whose student began like it and made the steps 0 to 2."""
    student = net()
    inside = made(keras.models.clone_model(student), **STRAYED[case][0]())
    inside.student.set_weights(student.get_weights())
    inside.fit(X[:24], Y[:24], batch_size=8, shuffle=False, verbose=0)
    return student, inside


@pytest.mark.parametrize("settings", [{}, {"steps_per_execution": 5}, {"jit_compile": True}])
@pytest.mark.parametrize("case", STRAYED)
def test_a_schedule_that_leaves_its_range_is_refused_at_its_step(case, settings):
    arguments, message = STRAYED[case]
    first, inside = three_steps_inside(case)
    student = keras.models.clone_model(first)
    student.set_weights(first.get_weights())
    distiller = Distiller(student, teacher=inside.teachers["teacher"], **arguments())
    distiller.compile("sgd", CE, **settings)
    with pytest.raises(ValueError, match=f"{message}.* step 3"):
        distiller.fit(np.tile(X, (2, 1)), np.tile(Y, 2), batch_size=8, shuffle=False, verbose=0)
    assert int(distiller.optimizer.iterations) == 3
    for one, other in zip(weights(student), weights(inside.student)):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_schedule_that_starts_outside_its_range_is_refused_before_the_first_step():
    distiller = made(alpha=grows(1.2, -0.1))
    with pytest.raises(ValueError, match=r"alpha.*1.2.*step 0"):
        distiller.fit(X, Y, verbose=0)
    assert int(distiller.optimizer.iterations) == 0


def test_a_schedule_may_end_at_its_limit():
    decay = keras.optimizers.schedules.PolynomialDecay(0.3, 3, 1.0)
    made(alpha=decay).fit(X, Y, batch_size=4, verbose=0)


@untraced
def test_label_free():
    distiller = Distiller(net(), teacher=net(8))
    distiller.compile("adam", metrics=["accuracy"])
    history = distiller.fit(X, Y, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    for alpha in (0.3, keras.Variable(0.3), grows(0.3, 0.1)):
        with pytest.raises(ValueError, match="alpha"):
            Distiller(net(), teacher=net(8), alpha=alpha).compile("adam")
    with pytest.raises(ValueError, match="validate"):
        made(loss=None).fit(X, validation_data=(X, Y), verbose=0)


@untraced
def test_softmax_heads_are_used_by_their_logits(capsys):
    student, teacher = net(), net(8)
    soft_student, soft_teacher = net(activation="softmax"), net(8, activation="softmax")
    soft_student.set_weights(student.get_weights())
    soft_teacher.set_weights(teacher.get_weights())
    plain = made(student, teacher).train_on_batch(X, Y, return_dict=True)
    soft = made(soft_student, soft_teacher, "sparse_categorical_crossentropy").train_on_batch(
        X, Y, return_dict=True
    )
    assert soft["kl_divergence"] == pytest.approx(plain["kl_divergence"], rel=1e-5)
    assert "softmax" in capsys.readouterr().out


@untraced
def test_regression_and_multi_label_heads():
    for head, loss, y in (
        (net(), "mse", X[:, :3]),
        (net(), keras.losses.BinaryCrossentropy(from_logits=True), (X[:, :3] > 0).astype("int32")),
    ):
        distiller = made(head, net(8), loss, terms=[Term("mse", name="answers")])
        history = distiller.fit(X, y, epochs=2, verbose=0).history
        assert np.isfinite(history["loss"]).all() and "answers" in history


def test_a_few_numbers_between_0_and_1_may_be_logits():
    y = np.zeros((32, 3), "float32")
    term = Term(losses.BinaryKLDivergence(2.0))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    distiller = made(net(), lambda x: 0.3 + 0 * x[:, :3], loss, terms=[term])
    distiller.fit(X[:4], y[:4], batch_size=4, verbose=0)
    distiller = made(net(), lambda x: 0.2 + 0 * x[:, :3], loss, terms=[term])
    distiller.fit(X[:32], y, batch_size=32, verbose=0)
    distiller = made(net(), lambda x: 0.3 + 0 * x[:, :3], loss, terms=[term])
    with pytest.raises(ValueError, match="Remove the sigmoid"):
        distiller.fit(X[:32], y, batch_size=32, verbose=0)


def test_a_loss_that_takes_logits_is_believed():
    student = keras.Sequential([keras.Input((6,)), layers.Dense(3, bias_initializer="ones")])
    student.layers[0].kernel.assign(0 * student.layers[0].kernel)  # all outputs are 1
    term = Term(losses.BinaryKLDivergence(2.0))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    distiller = made(student, net(8), loss, terms=[term])
    distiller.fit(X[:32], np.zeros((32, 3)), batch_size=32, verbose=0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@untraced
@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_many_labels_an_example(activation):
    """Each label a question of yes or no, to the labels as to the teacher."""
    student, teacher = net(activation=activation), net(8)
    y = (X[:, :3] > 0).astype("float32")
    z, t = student(X).numpy(), teacher(X).numpy()
    p = sigmoid(z) if activation is None else z
    soft_teacher, soft_student = sigmoid(t / 2), sigmoid(np.log(p / (1 - p)) / 2)
    label_loss = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    kl = soft_teacher * np.log(soft_teacher / soft_student)
    kl += (1 - soft_teacher) * np.log((1 - soft_teacher) / (1 - soft_student))
    loss = keras.losses.BinaryCrossentropy(from_logits=activation is None)
    term = Term(losses.BinaryKLDivergence(2.0), name="kl")
    distiller = made(student, teacher, loss, terms=[term], alpha=0.25)
    logs = distiller.fit(X, y, batch_size=32, verbose=0).history
    assert logs["label_loss"][0] == pytest.approx(label_loss, rel=1e-4)
    assert logs["kl"][0] == pytest.approx(4 * kl.sum(-1).mean(), rel=1e-4)
    assert logs["loss"][0] == pytest.approx(0.75 * label_loss + 0.25 * logs["kl"][0], rel=1e-4)


@untraced
def test_class_weights_weigh_terms_as_sample_weights_do():
    by_class, teacher = {0: 3.0, 1: 0.5, 2: 0.0}, net(8)
    distillers = [made(net(), teacher, None) for _ in range(2)]
    distillers[1].student.set_weights(distillers[0].student.get_weights())
    fits = {"class_weight": by_class}, {"sample_weight": np.array([by_class[y] for y in Y])}
    for distiller, fit in zip(distillers, fits, strict=True):
        distiller.fit(X, Y, verbose=0, shuffle=False, **fit)
    for one, other in zip(*(weights(d.student) for d in distillers), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@untraced
def test_outputs_by_key_and_metrics_for_each():
    def two(width):
        inputs = keras.Input((6,))
        hidden = layers.Dense(width)(inputs)
        outputs = {"a": layers.Dense(3)(hidden), "b": layers.Dense(3)(hidden)}
        return keras.Model(inputs, outputs)

    term = Term(losses.KLDivergence(2.0), student="output:a", teacher="output:b")
    distiller = Distiller(two(4), teacher=two(8), terms=[term])
    distiller.compile("sgd", {"a": CE, "b": CE}, metrics=["accuracy"])
    assert "a_accuracy" in distiller.fit(X, Y, verbose=0).history


@untraced
def test_a_teacher_with_its_own_view_is_left_as_it_was():
    teacher = net(8)
    teacher.trainable = False
    before = weights(teacher)
    seen = ModelTeacher(teacher, preprocess=lambda x: x * 2)
    made(teacher=seen).fit(X, Y, verbose=0)
    assert not teacher.trainable
    for old, new in zip(before, weights(teacher)):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(TypeError, match="serve"):
        ModelTeacher(3)


def test_a_second_fit_does_not_retrace():
    distiller = made()
    distiller.fit(X, Y, verbose=0)
    function = distiller.train_function
    distiller.fit(X, Y, verbose=0)
    assert distiller.train_function is function


@untraced
def test_teacher_agreement_equals_numpy():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)
    distiller = made()
    history = distiller.fit(X, Y, verbose=0, callbacks=[TeacherAgreement(data)]).history
    s, t = distiller.student(X).numpy(), distiller.teachers["teacher"].model(X).numpy()
    assert history["teacher_agreement"][-1] == pytest.approx((s.argmax(-1) == t.argmax(-1)).mean())
    p, q = (np.exp(v) / np.exp(v).sum(-1, keepdims=True) for v in (t, s))
    divergence = (p * np.log(p / q)).sum(-1).mean()
    assert history["teacher_kl"][-1] == pytest.approx(divergence, rel=1e-4)


@untraced
def test_a_teacher_no_better_than_the_student_is_said():
    same = net()
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)
    distiller = made(same, keras.models.clone_model(same), optimizer=keras.optimizers.SGD(0.0))
    distiller.teachers["teacher"].model.set_weights(same.get_weights())
    with pytest.warns(UserWarning, match="no better"):
        distiller.fit(X, Y, verbose=0, callbacks=[TeacherAgreement(data)])


@untraced
def test_teacher_agreement_refuses():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)
    with pytest.raises(ValueError, match="There are: self, teacher. Received: source='other'"):
        made().fit(X, Y, verbose=0, callbacks=[TeacherAgreement(data, source="other")])
    with pytest.raises(ValueError, match="at least one batch"):
        made().fit(X, Y, verbose=0, callbacks=[TeacherAgreement(data.take(0))])


def test_the_summary_tells_where_each_term_is_tapped(capsys):
    hint = Term("mse", student="hidden", teacher="hidden", projector="auto", name="hint")
    made(teacher=net(8, name="big"), terms=[hint]).summary()
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("big", "hint", "student hidden <- teacher hidden"))


class Unbuilt(keras.Model):
    def __init__(self):
        super().__init__(name="unbuilt")
        self.head = layers.Dense(3)

    def call(self, x):
        return self.head(x)


@untraced
def test_the_summary_of_a_student_that_is_not_built(capsys):
    distiller = made(Unbuilt())
    distiller.summary()
    assert "Distiller: unbuilt, not built" in capsys.readouterr().out
    distiller.fit(X, Y, verbose=0)
    distiller.summary()
    assert "Distiller: unbuilt, 21 parameters" in capsys.readouterr().out


def two_headed():
    inputs = keras.Input((6,))
    hidden = layers.Dense(4, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, {"a": layers.Dense(3)(hidden), "b": layers.Dense(3)(hidden)})


@untraced
def test_one_sample_weight_for_two_outputs_weighs_a_hidden_feature():
    hint = Term("mse", student="hidden", teacher="hidden")
    distiller = Distiller(two_headed(), teacher=net(), terms=[hint])
    distiller.compile("sgd", {"a": CE, "b": CE})
    weight = np.arange(32, dtype="float32")
    logs = distiller.train_on_batch(X, {"a": Y, "b": Y}, sample_weight=weight, return_dict=True)
    assert np.isfinite(logs["mean_squared_error"])
    other = {"a": weight, "b": weight[::-1].copy()}
    distiller = Distiller(two_headed(), teacher=net(), terms=[hint])
    distiller.compile("sgd", {"a": CE, "b": CE})
    with pytest.raises(ValueError, match="different sample weights.*sample_weight:KEY"):
        distiller.fit(X, {"a": Y, "b": Y}, sample_weight=other, verbose=0)
    named = Term("mse", student="hidden", teacher="hidden", mask="sample_weight:b")
    distiller = Distiller(two_headed(), teacher=net(), terms=[named])
    distiller.compile("sgd", {"a": CE, "b": CE})
    distiller.fit(X, {"a": Y, "b": Y}, sample_weight=other, verbose=0)


@pytest.mark.parametrize("path", ["attention:scores", "attention/query"])
def test_attention_heads_are_not_projected(path):
    def attentive(heads):
        x = keras.Input((5, 8))
        return keras.Model(x, layers.MultiHeadAttention(heads, 4, name="attention")(x, x))

    heads = Term("mse", student=path, teacher=path, projector="auto")
    distiller = Distiller(attentive(2), teacher=attentive(4), terms=[heads])
    distiller.compile("sgd", "mse")
    tokens = np.ones((4, 5, 8), "float32")
    with pytest.raises(ValueError, match="attention heads.*heads='mean'"):
        distiller.fit(tokens, tokens, verbose=0)


def test_a_head_of_one_unit_has_no_distribution_over_classes():
    term = Term(losses.KLDivergence(2.0))
    distiller = Distiller(net(classes=1), teacher=net(8, classes=1), terms=[term])
    distiller.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="one unit.*BinaryKLDivergence"):
        distiller.fit(X, Y % 2, verbose=0)


@untraced
def test_alpha_is_not_trained():
    alpha = keras.Variable(0.25)
    distiller = made(alpha=alpha, optimizer="adam")
    distiller.fit(X, Y, verbose=0)
    assert float(alpha) == 0.25 and all(v is not alpha for v in distiller.trainable_variables)


def test_compiled_again_without_a_loss_it_has_no_labels():
    distiller = made(loss=CE)
    distiller.fit(X, Y, verbose=0)
    distiller.compile(keras.optimizers.SGD(0.0))
    logs = distiller.fit(X, verbose=0).history
    assert logs["loss"] == pytest.approx(logs["kl_divergence"]) and logs["label_loss"] == [0.0]
    assert len(distiller.train_on_batch(X)) == len(logs)


def test_inputs_of_mixed_precision_are_the_students():
    """Ids past 256 that come as floats are other ids in bfloat16."""
    inputs = keras.Input((1,))
    policy = keras.DTypePolicy("mixed_bfloat16")
    words = layers.Flatten(dtype=policy)(layers.Embedding(999, 3, dtype=policy)(inputs))
    student = keras.Model(inputs, words)
    student.dtype_policy = policy
    ids = np.arange(400, 432, dtype="float32")[:, None]
    distiller = Distiller(student)
    distiller.compile("sgd", CE)
    np.testing.assert_array_equal(distiller.predict(ids, 8, 0), student.predict(ids, verbose=0))
    expected = CE(Y, student(ids).numpy().astype("float32"))
    assert distiller.evaluate(ids, Y, 32, 0) == pytest.approx(float(expected), rel=1e-2)


@untraced
def test_a_student_in_float64_and_losses_of_both_dtypes():
    """They add up in the widest, though a label loss of Keras's is in float32."""
    inputs = keras.Input((6,), dtype="float64")
    outputs = layers.Dense(3, kernel_regularizer="l2", dtype="float64")(inputs)
    terms = [Term(losses.KLDivergence(2.0, dtype="float64")), Term("mse", name="mse")]
    distiller = made(keras.Model(inputs, outputs), terms=terms, optimizer=keras.optimizers.SGD(0.0))
    logs = distiller.train_on_batch(X, Y, return_dict=True)
    regularization = float(distiller.student.losses[0])
    parts = logs["label_loss"] + logs["kl_divergence"] + logs["mse"]
    assert logs["loss"] == pytest.approx(0.5 * parts + regularization, rel=1e-5)


def test_eagerly_arrays_are_batches_too():
    distiller = made()
    distiller.compile("sgd", CE, run_eagerly=True)
    logs = distiller.train_on_batch(X, Y, sample_weight=np.ones(32), return_dict=True)
    targets = {"output": net(8)(X).numpy()}
    cached = Distiller(net(), teacher=CachedTeacher())
    cached.compile("sgd", CE, run_eagerly=True)
    found = cached.train_on_batch(X, Supervision(Y, targets), return_dict=True)
    assert np.isfinite(logs["loss"]) and np.isfinite(found["loss"])


@keras.saving.register_keras_serializable(package="distiller_test")
class Late(keras.Model):
    """A student that is built by its first batch."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.head = layers.Dense(4, name="hidden"), layers.Dense(3, name="head")

    def call(self, x):
        return self.head(self.hidden(x))


def test_a_student_may_be_evaluated_before_it_is_built():
    term = Term("mse", student="hidden", teacher="hidden", projector="auto")
    distiller = made(student=Late(), terms=[term])
    distiller.evaluate(X, Y, verbose=0)
    distiller.fit(X, Y, verbose=0)
    distiller.compile("sgd", CE)
    assert np.isfinite(distiller.fit(X, Y, verbose=0).history["loss"]).all()


def test_a_teacher_that_xla_cannot_compile_is_asked_too():
    inputs = keras.Input((6,))
    words = layers.Reshape((6, 1))(inputs)
    recurrent = keras.Model(inputs, layers.Dense(3)(layers.LSTM(4)(words)))
    recurrent.get_layer(index=2).supports_jit = False  # as Keras sets it where cuDNN is
    assert made().objective.jits()
    for teacher in (recurrent, lambda x: x[:, :3], EnsembleTeacher([net(), recurrent])):
        distiller = made(teacher=teacher)
        assert not distiller.objective.jits() and not distiller.jit_compile


@untraced
def test_teacher_agreement_leaves_out_what_has_no_weight():
    distiller, weight = made(), (np.arange(32) < 20).astype("float32")
    x = np.where(weight[:, None] > 0, X, np.nan)
    data = tf.data.Dataset.from_tensor_slices((x, Y, weight)).batch(8)
    history = distiller.fit(X, Y, verbose=0, callbacks=[TeacherAgreement(data)]).history
    teacher = distiller.teachers["teacher"].model
    s, t = (model(X[:20]).numpy() for model in (distiller.student, teacher))
    assert history["teacher_agreement"] == pytest.approx([(s.argmax(-1) == t.argmax(-1)).mean()])
    assert np.isfinite(history["teacher_kl"]).all()


def test_terms_are_a_list():
    with pytest.raises(TypeError, match="`terms` must be a list"):
        Distiller(net(), teacher=net(8), terms=Term("mse"))


def test_shapes_are_asked_of_the_student():
    distiller = made()
    assert tuple(distiller.compute_output_shape((5, 6))) == (5, 3)
    assert distiller.output_shape == (None, 3)


def test_a_later_fit_with_other_data_is_looked_at_too():
    answers = np.random.default_rng(1).normal(size=(32, 3)).astype("float32")
    distiller = made(teacher=CachedTeacher())
    distiller.fit(X, Supervision(Y, answers), verbose=0)
    with pytest.raises(ValueError, match="classes differ"):
        distiller.fit(X, Supervision(Y, answers[:, :2]), verbose=0)
    counts = np.linspace(0.1, 1, 32).astype("float32")
    distiller = made(optimizer=keras.optimizers.SGD(0.0))
    found = [distiller.fit(X, Y, sample_weight=each, verbose=0).history["kl_divergence"][0]
             for each in (counts, counts[:, None])]  # fmt: skip
    assert found[0] == pytest.approx(found[1], rel=1e-5)
