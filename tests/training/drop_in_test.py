"""A distiller stands wherever its student stood: `fit`, `evaluate`, callbacks, files."""

import os
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_distill import Distiller, Term, losses

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(24, 6)).astype("float32")
Y = RANDOM.integers(0, 4, 24)
WEIGHT = RANDOM.uniform(0.2, 2, 24).astype("float32")
HIDDEN, UNSEEN = 23, 29  # widths that only the teacher has


class Counted(layers.Layer):
    """Counts how often it is run or traced."""

    calls = 0

    def call(self, x):
        self.calls += 1
        return x


def make_student():
    """With what may go wrong: regularization, batch statistics, dropout."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((6,)),
            Counted(name="counted"),
            layers.Dense(8, "relu", kernel_regularizer=keras.regularizers.L2(0.01), name="hint"),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Dense(4, dtype="float32"),
        ],
        name="student",
    )


def make_plain_student():
    """Without what only a process that knows the layer could load, or what is random."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "relu", name="hint"), layers.Dense(4)], name="student"
    )


def make_teacher():
    keras.utils.set_random_seed(2)
    return keras.Sequential(
        [
            keras.Input((6,)),
            Counted(name="counted"),
            layers.Dense(HIDDEN, "relu", name="hint"),
            layers.Dense(UNSEEN, "relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(4),
        ],
        name="teacher",
    )


def hint():
    return Term(
        keras.losses.MeanSquaredError(),
        student="hint",
        teacher="hint",
        projector="auto",
        name="hint",
    )


def kd():
    return Term(losses.KLDivergence(temperature=2.0), name="kd")


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(model, optimizer=None, **options):
    optimizer = optimizer() if optimizer else keras.optimizers.SGD(0.1)
    model.compile(optimizer, **{"loss": cross_entropy(), "metrics": ["accuracy"], **options})
    return model


def distiller(student=None, *, alpha=0.5, terms=None, **options):
    student = make_student() if student is None else student
    terms = [kd()] if terms is None else terms
    return compiled(Distiller(student, teacher=make_teacher(), terms=terms, alpha=alpha), **options)


def fitted(model, x=X, y=Y, **options):
    keras.utils.set_random_seed(3)
    return model.fit(x, y, **{"batch_size": 8, "epochs": 2, "verbose": 0, **options}).history


def values(variables):
    return [np.array(variable) for variable in variables]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(our, their)


def assert_same_logs(ours, theirs):
    """Every log of the student is there, and the same."""
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, err_msg=name)


# `alpha=0` is `student.fit`


def sgd(**options):
    return lambda: keras.optimizers.SGD(0.1, **options)


def adam(**options):
    return lambda: keras.optimizers.Adam(0.01, **options)


SAME = {
    "sgd": {},
    "adam": {"optimizer": adam()},
    "clipnorm": {"optimizer": sgd(momentum=0.9, clipnorm=0.1)},
    "global_clipnorm, decay": {"optimizer": adam(global_clipnorm=0.1, weight_decay=0.01)},
    "ema": {"optimizer": adam(use_ema=True, ema_momentum=0.8)},
    "accumulation": {"optimizer": sgd(gradient_accumulation_steps=2)},
    "sample_weight": {"fit": {"sample_weight": WEIGHT}},
    "class_weight": {"fit": {"class_weight": {0: 3.0, 1: 0.5, 2: 1.0, 3: 0.0}}},
    "weighted_metrics": {"fit": {"sample_weight": WEIGHT}, "weighted_metrics": ["accuracy"]},
    "validation_data": {"fit": {"validation_data": (X[:9], Y[:9])}},
    "validation_split": {"fit": {"validation_split": 0.25}},
    "uneven": {"fit": {"batch_size": 7}},
    "steps_per_execution": {"steps_per_execution": 2},
    "run_eagerly": {"run_eagerly": True},
    "jit_compile": {"jit_compile": True},
    "mixed_float16": {"policy": "mixed_float16", "optimizer": adam()},
    "mixed_bfloat16": {"policy": "mixed_bfloat16"},
}


@pytest.mark.parametrize("case", SAME.values(), ids=SAME)
def test_alpha_zero_is_the_students_fit(case):
    options = {key: value for key, value in case.items() if key not in ("fit", "policy")}
    keras.config.set_dtype_policy(case.get("policy", "float32"))
    try:
        alone, student = make_student(), make_student()
        both = distiller(student, alpha=0.0, **options)
    finally:
        keras.config.set_dtype_policy("float32")
    compiled(alone, **options)
    fit = {"shuffle": False, **case.get("fit", {})}
    theirs, ours = fitted(alone, **fit), fitted(both, **fit)
    assert type(both.optimizer) is type(alone.optimizer)
    assert_same(values(student.variables), values(alone.variables))
    assert_same(values(both.optimizer.variables), values(alone.optimizer.variables))
    assert_same_logs(ours, theirs)


def batches():
    for start in range(0, 24, 8):
        yield X[start : start + 8], Y[start : start + 8]


class Pages(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return list(batches())[index]


SOURCES = {
    "tf.data": lambda: {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)},
    "generator": lambda: {"x": batches(), "epochs": 1},
    "PyDataset": lambda: {"x": Pages()},
    "tensors": lambda: {"x": tf.constant(X), "y": tf.constant(Y), "batch_size": 8},
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_any_source_of_data_is_used_whole(source):
    """Though the first batch also builds projectors, no batch is lost."""
    alone = compiled(make_student())
    both = distiller(alpha=0.0, terms=[kd(), hint()])
    for model in (alone, both):
        fitted(model, **{"y": None, "batch_size": None, "shuffle": False, **source()})
    assert int(both.optimizer.iterations) == int(alone.optimizer.iterations)
    assert_same(values(both.student.variables), values(alone.variables))


def shuffled():
    tf.random.set_seed(3)
    return {"x": tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(24).batch(5)}


SHUFFLED = {
    "tf.data": (shuffled, {}),
    "steps of one call": (shuffled, {"steps_per_execution": 3}),
    "one call an epoch": (shuffled, {"steps_per_execution": 32}),
    "steps_per_epoch": (lambda: {**shuffled(), "steps_per_epoch": 2, "epochs": 4}, {}),
    "NumPy": (lambda: {"x": X, "y": Y, "batch_size": 8, "shuffle": True}, {}),
    "eager": (shuffled, {"run_eagerly": True}),
}


@pytest.mark.parametrize("source, options", SHUFFLED.values(), ids=SHUFFLED)
def test_the_order_of_a_shuffle_is_the_students(source, options):
    """The look at the first batch neither takes it nor advances the shuffle."""
    alone = compiled(make_student(), **options)
    both = distiller(alpha=0.0, terms=[kd(), hint()], **options)
    for model in (alone, both):
        keras.utils.set_random_seed(7)
        fitted(model, **{"y": None, "batch_size": None, "epochs": 3, **source()})
    assert int(both.optimizer.iterations) == int(alone.optimizer.iterations)
    assert_same(values(both.student.variables), values(alone.variables))


def test_a_generator_that_is_read_ahead_loses_nothing():
    seen = []

    def endless():
        for index in range(100):
            seen.append(index)
            yield X[:4] + index / 100, Y[:4]

    both = distiller(alpha=0.0, terms=[kd(), hint()])
    alone = compiled(make_student())
    for model in (alone, both):
        model.fit(endless(), steps_per_epoch=3, epochs=2, verbose=0)
    assert_same(values(both.student.variables), values(alone.variables))


def test_train_on_batch():
    alone, both = compiled(make_student()), distiller(alpha=0.0)
    for x, y in batches():
        theirs = alone.train_on_batch(x, y, return_dict=True)
        ours = both.train_on_batch(x, y, return_dict=True)
    assert_same(values(both.student.variables), values(alone.variables))
    assert_same_logs(ours, theirs)
    assert_same_logs(
        both.test_on_batch(X, Y, return_dict=True), alone.test_on_batch(X, Y, return_dict=True)
    )


def make_two_headed():
    keras.utils.set_random_seed(1)
    x = keras.Input((6,))
    hidden = layers.Dense(5, "tanh")(x)
    return keras.Model(x, {"a": layers.Dense(4)(hidden), "b": layers.Dense(4)(hidden)})


@pytest.mark.parametrize("labels", [{"a": Y, "b": Y[::-1]}, {"a": Y, "b": Y}], ids=["two", "one"])
def test_two_outputs_with_weights_for_their_losses(labels):
    term = Term(losses.KLDivergence(), student="output:a", teacher="output:a", name="kd")
    alone, student = make_two_headed(), make_two_headed()
    both = Distiller(student, teacher=make_two_headed(), terms=[term], alpha=0.0)
    for model in (alone, both):
        model.compile(
            "sgd",
            loss={"a": cross_entropy(), "b": cross_entropy()},
            loss_weights={"a": 0.3, "b": 2.0},
            metrics={"a": ["accuracy"]},
        )
    weight = {"a": WEIGHT, "b": WEIGHT[::-1].copy()}
    theirs = fitted(alone, y=labels, shuffle=False, sample_weight=weight)
    ours = fitted(both, y=labels, shuffle=False, sample_weight=weight)
    assert_same(values(student.variables), values(alone.variables))
    assert_same_logs(ours, theirs)


# `evaluate` and `predict`


def test_evaluate_changes_nothing_and_runs_no_teacher():
    both = distiller(terms=[kd(), hint()])
    fitted(both)
    counted = both.teachers["teacher"].model.get_layer("counted")
    before, calls = values(_lasting(both)), counted.calls
    first = both.evaluate(X, Y, verbose=0, return_dict=True)
    second = both.evaluate(X, Y, verbose=0, return_dict=True)
    assert first == second
    assert counted.calls == calls
    assert_same(values(_lasting(both)), before)


def _lasting(model):
    """All variables but the metrics', which every `evaluate` resets."""
    metrics = {id(variable) for metric in model.metrics for variable in metric.variables}
    kept = [variable for variable in model.variables if id(variable) not in metrics]
    return [*kept, *model.optimizer.variables]


def test_evaluate_and_predict_are_the_students():
    both = distiller(weighted_metrics=["accuracy"])
    fitted(both)
    alone = compiled(both.student, weighted_metrics=["accuracy"])
    options = {"batch_size": 7, "verbose": 0}
    ours = both.evaluate(X, Y, sample_weight=WEIGHT, return_dict=True, **options)
    theirs = alone.evaluate(X, Y, sample_weight=WEIGHT, return_dict=True, **options)
    assert {*ours} == {*theirs}
    assert_same_logs(ours, theirs)
    assert_same([both.predict(X, **options)], [alone.predict(X, **options)])
    assert_same([both(X)], [alone(X)])


# What a step does


def test_logs_are_what_was_measured():
    history = fitted(distiller(terms=[kd(), hint()]), validation_data=(X, Y))
    assert {*history} == {
        "loss", "label_loss", "kd", "hint", "accuracy", "val_loss", "val_accuracy",
    }  # fmt: skip


def test_regularization_counts_once():
    """`loss = (1 - alpha) * label_loss + alpha * kd + regularization`."""
    both = distiller(alpha=0.3, optimizer=lambda: keras.optimizers.SGD(0.0))
    logs = {name: value[0] for name, value in fitted(both, batch_size=24, epochs=1).items()}
    regularization = float(sum(both.student.losses))
    assert regularization > 0.01
    assert logs["label_loss"] > 0 and logs["kd"] > 0
    expected = 0.7 * logs["label_loss"] + 0.3 * logs["kd"] + regularization
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)


def test_a_step_runs_each_model_once():
    own = Term(losses.KLDivergence(), student="output", teacher="output", source="self", name="own")
    both = distiller(terms=[kd(), hint(), own])
    fitted(both)
    student = both.student.get_layer("counted")
    teacher = both.teachers["teacher"].model.get_layer("counted")
    student.calls = teacher.calls = 0
    data = (tf.constant(X), tf.constant(Y))
    tf.function(lambda: both.train_step(data), autograph=False).get_concrete_function()
    assert (student.calls, teacher.calls) == (1, 1)


def test_the_teacher_is_left_as_it_was():
    teacher = make_teacher()
    teacher.get_layer("hint").trainable = False
    before = [layer.trainable for layer in teacher.layers], teacher.trainable
    weights = values(teacher.variables)
    both = Distiller(make_student(), teacher=teacher, terms=[kd(), hint()], alpha=1.0)
    fitted(compiled(both))
    assert ([layer.trainable for layer in teacher.layers], teacher.trainable) == before
    assert_same(values(teacher.variables), weights)
    mine = {id(variable) for variable in both.variables}
    assert not mine & {id(variable) for variable in teacher.variables}


def test_the_projector_trains_with_the_student():
    both = distiller(terms=[hint()], alpha=1.0)
    fitted(both, epochs=0)
    projector = both.projectors["hint"]
    before = values(projector.trainable_variables)
    fitted(both)
    for start, variable in zip(before, projector.trainable_variables, strict=True):
        assert not np.array_equal(start, np.array(variable))
    assert not {id(v) for v in projector.variables} & {id(v) for v in both.student.variables}


# Callbacks and files


def test_tensorboard_sees_training_and_validation(tmp_path):
    board = keras.callbacks.TensorBoard(tmp_path, histogram_freq=1)
    fitted(distiller(), validation_data=(X, Y), callbacks=[board])
    written = {path.parent.name: path.read_bytes() for path in tmp_path.rglob("*tfevents*")}
    assert {"train", "validation"} <= {*written}
    names = (b"epoch_kd", b"epoch_label_loss", b"kernel/histogram")
    assert all(name in written["train"] for name in names)
    assert b"epoch_loss" in written["validation"] and b"epoch_kd" not in written["validation"]


def test_early_stopping_watches_the_students_loss():
    both = distiller()
    stopper = keras.callbacks.EarlyStopping(
        "val_loss", min_delta=10.0, patience=2, restore_best_weights=True
    )
    history = fitted(both, epochs=9, validation_data=(X, Y), callbacks=[stopper])
    assert len(history["loss"]) == 3 and stopper.best_epoch == 0


def test_a_learning_rate_schedule_is_the_students():
    both = distiller()
    fitted(both, callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch: 0.5 / (1 + epoch))])
    np.testing.assert_allclose(float(both.optimizer.learning_rate), 0.25)


LOAD = """
import sys
sys.modules["keras_distill"] = None  # an import of it fails
import keras, numpy as np
x = np.load(sys.argv[1])
models = [keras.saving.load_model(path) for path in sys.argv[3:]]
np.savez(sys.argv[2], *[model.predict(x, verbose=0) for model in models])
print([model.name for model in models], [model.count_params() for model in models])
"""


def test_files_hold_the_student_and_load_without_this_package(tmp_path):
    student = make_plain_student()
    student.compile(loss=losses.KLDivergence())  # a loss of ours, which must not be saved with it
    both = distiller(student, terms=[kd(), hint()])
    checkpoint = tmp_path / "checkpoint.keras"
    fitted(both, callbacks=[keras.callbacks.ModelCheckpoint(checkpoint)])
    both.save(tmp_path / "saved.keras")
    np.save(tmp_path / "x.npy", X)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    files = ["x.npy", "outputs.npz", "saved.keras", "checkpoint.keras"]
    child = subprocess.run(
        [sys.executable, "-c", LOAD, *(str(tmp_path / file) for file in files)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    assert f"{[both.student.count_params()] * 2}" in child.stdout
    for output in np.load(tmp_path / "outputs.npz").values():
        np.testing.assert_allclose(output, both.student.predict(X, verbose=0), rtol=1e-5, atol=1e-6)


def test_weights_come_back_and_none_is_the_teachers(tmp_path):
    path = tmp_path / "all.weights.h5"
    both = distiller(terms=[kd(), hint()], optimizer=adam())
    fitted(both)
    both.save_weights(path)
    again = distiller(terms=[kd(), hint()], optimizer=adam())
    fitted(again, epochs=0)
    again.load_weights(path)
    assert_same(values(again.trainable_variables), values(both.trainable_variables))
    assert_same(values(again.student.weights), values(both.student.weights))
    shapes = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: shapes.update({name: getattr(item, "shape", ())}) and None
        )
    assert any(HIDDEN in shape for shape in shapes.values())  # the projector
    assert not [name for name, shape in shapes.items() if UNSEEN in shape or "teacher" in name]


def test_load_weights_before_the_projectors_is_refused(tmp_path):
    both = distiller(terms=[hint()])
    fitted(both)
    both.save_weights(tmp_path / "all.weights.h5")
    with pytest.raises(ValueError, match=r"fit\(.*epochs=0\)"):
        distiller(terms=[hint()]).load_weights(tmp_path / "all.weights.h5")


class PowerCut(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def test_an_interrupted_fit_resumes_where_it_was(tmp_path):
    def make():
        return distiller(make_plain_student(), terms=[kd(), hint()], optimizer=adam())

    def fit(model, *callbacks):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        return fitted(model, epochs=4, shuffle=False, callbacks=[backup, *callbacks])

    whole, cut, resumed = make(), make(), make()
    fitted(whole, epochs=4, shuffle=False)
    with pytest.raises(KeyboardInterrupt):
        fit(cut, PowerCut())
    assert len(fit(resumed)["loss"]) == 2
    assert int(resumed.optimizer.iterations) == int(whole.optimizer.iterations) == 12
    assert_same(values(resumed.trainable_variables), values(whole.trainable_variables))


def test_saving_the_distiller_itself_is_refused(tmp_path):
    with pytest.raises(Exception, match="student"):
        keras.saving.save_model(distiller(), tmp_path / "distiller.keras")
