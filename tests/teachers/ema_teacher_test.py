"""The moving copy of the student: its formula, its checkpoints, what it refuses."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill import Distiller, EMATeacher, Term, models

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = np.arange(32) % 3
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net():
    inputs = keras.Input((6,))
    hidden = layers.BatchNormalization(name="norm")(layers.Dense(5, name="hidden")(inputs))
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.ReLU()(hidden)))


def made(momentum=0.9, student=None, optimizer=None, **compiled):
    teacher = EMATeacher(momentum)
    distiller = Distiller(student or net(), teacher=teacher)
    distiller.compile(optimizer or keras.optimizers.Adam(0.01), CE, **compiled)
    return distiller, teacher


class Watch(keras.callbacks.Callback):
    """Keeps the student's weights after every step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.model.student.get_weights())


def ramp(step):
    return keras.ops.minimum(0.9, keras.ops.cast(step + 1, "float32") / 4)


@pytest.mark.parametrize("momentum", [0.9, 0.0, 1.0, ramp])
def test_the_copy_is_the_formulas(momentum):
    distiller, teacher = made(momentum)
    expected, watch = distiller.student.get_weights(), Watch()
    distiller.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[watch])
    for step, weights in enumerate(watch.seen):
        m = np.float32(momentum(step) if callable(momentum) else momentum)
        expected = [m * old + (1 - m) * new for old, new in zip(expected, weights)]
    assert len(watch.seen) == 8 and int(teacher.step) == 8
    for found, wanted in zip(teacher.model.get_weights(), expected):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    moving = teacher.model.get_layer("norm").moving_mean.numpy()
    assert (momentum == 1.0) == (not moving.any())  # batch statistics move, too


def test_it_is_not_trained_and_not_the_students():
    student = net()
    distiller, teacher = made(0.5, student)
    count = len(student.trainable_variables)
    assert len(distiller.trainable_variables) == count
    distiller.fit(X, Y, verbose=0)
    assert len(distiller.optimizer._trainable_variables) == count
    assert all(variable.trainable for variable in student.trainable_variables)


def test_its_regularizers_and_metrics_do_not_count():
    inputs = keras.Input((6,))
    student = keras.Model(inputs, layers.Dense(3, kernel_regularizer="l2")(inputs))
    distiller, _ = made(0.5, student)
    assert len(distiller.losses) == 1


@pytest.mark.parametrize("how", [{"steps_per_execution": 2}, {"run_eagerly": True},
                                 {"jit_compile": True}])  # fmt: skip
def test_ways_to_run(how):
    students = [net() for _ in range(2)]
    students[1].set_weights(students[0].get_weights())
    copies = []
    for student, arguments in zip(students, ({}, how)):
        distiller, teacher = made(0.8, student, "sgd", **arguments)
        distiller.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
        copies.append(teacher.model.get_weights())
    for one, other in zip(*copies):
        np.testing.assert_allclose(one, other, atol=1e-5)


class PowerCut(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def state(distiller, teacher):
    return [v.numpy() for v in (*distiller.student.variables, *teacher.model.variables,
                                teacher.step, *distiller.optimizer.variables)]  # fmt: skip


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def three():
    """Distillers of equal students; the copies start anew with each."""
    first, *others = (net() for _ in range(3))
    for other in others:
        other.set_weights(first.get_weights())
    return [made(ramp, student) for student in (first, *others)]


def test_backup_and_restore_is_exact_bit_for_bit(three, tmp_path):
    whole, cut, resumed = three
    resumed[0].student.set_weights(net().get_weights())  # what the checkpoint must replace
    fit = {"batch_size": 8, "epochs": 4, "shuffle": False, "verbose": 0}
    whole[0].fit(X, Y, **fit)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        cut[0].fit(X, Y, callbacks=[backup, PowerCut()], **fit)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    history = resumed[0].fit(X, Y, callbacks=[backup], **fit)
    assert len(history.epoch) == 2
    same(state(*whole), state(*resumed))


def test_save_weights_and_load_weights_are_exact_bit_for_bit(three, tmp_path):
    whole, first, second = three
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
    whole[0].fit(X, Y, epochs=4, **fit)
    first[0].fit(X, Y, epochs=2, **fit)
    first[0].save_weights(tmp_path / "half.weights.h5")
    second[0].optimizer.build(second[0].trainable_variables)
    second[0].load_weights(tmp_path / "half.weights.h5")
    same(state(*first), state(*second))
    second[0].fit(X, Y, epochs=4, initial_epoch=2, **fit)
    same(state(*whole), state(*second))


def test_the_students_file_does_not_hold_it(tmp_path):
    distiller, teacher = made()
    distiller.fit(X, Y, verbose=0)
    distiller.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    assert loaded.count_params() == distiller.student.count_params()
    teacher.model.save(tmp_path / "teacher.keras")
    loaded = keras.models.load_model(tmp_path / "teacher.keras")
    np.testing.assert_array_equal(loaded(X), teacher.model(X))


def test_features_and_preprocessing():
    teacher = EMATeacher(0.9, preprocess=lambda x: -x)
    student = net()
    hint = Term("mse", student="hidden", teacher="hidden", name="hint")
    distiller = Distiller(student, teacher=teacher, terms=[hint])
    distiller.compile("sgd", CE)
    logs = distiller.train_on_batch(X, Y, return_dict=True)
    kernel = student.get_layer("hidden").kernel.numpy()
    assert kernel.shape == (6, 5) and logs["hint"] > 0  # zero, had both seen the same input


def test_mixed_precision_and_a_cohort():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        student = models.cohort(a=net(), b=net())
    finally:
        keras.config.set_dtype_policy("float32")
    teacher = EMATeacher(0.5)
    term = Term("mse", student="output:a", teacher="output:a", name="consistency")
    distiller = Distiller(student, teacher=teacher, terms=[term])
    distiller.compile("adam", CE)
    assert np.isfinite(distiller.fit(X, Y, verbose=0).history["loss"]).all()
    assert int(teacher.step) == 1


class Uncopied(keras.Model):
    """A student whose arguments its config does not hold."""

    def __init__(self, width):
        super().__init__()
        self.dense = layers.Dense(width)
        self.dense.build((None, 6))
        self.built = True

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        raise NotImplementedError("no config")


def test_a_student_that_cannot_be_copied():
    with pytest.raises(ValueError, match=r"model=\.\.\."):
        made(student=Uncopied(3))
    student = Uncopied(3)
    teacher = EMATeacher(0.0, model=Uncopied(3))
    distiller = Distiller(student, teacher=teacher)
    np.testing.assert_array_equal(teacher.model(X), student(X))
    distiller.compile("sgd", CE)
    distiller.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(teacher.model(X), student(X))


def test_refused():
    with pytest.raises(ValueError, match=r"momentum.*\[0, 1\].*2"):
        EMATeacher(2)
    distiller, teacher = made()
    with pytest.raises(ValueError, match="already follows"):
        Distiller(net(), teacher=teacher)
    with pytest.raises(ValueError, match="built"):
        Distiller(keras.Sequential([layers.Dense(3)]), teacher=EMATeacher())
    with pytest.raises(ValueError, match="variables of the same shapes"):
        Distiller(net(), teacher=EMATeacher(model=Uncopied(2)))
    student = net()
    with pytest.raises(ValueError, match="must not share"):
        Distiller(student, teacher=EMATeacher(model=student))


def test_a_copy_adds_no_loss_of_its_own():
    inputs = keras.Input((6,))
    hidden = layers.Dense(5, activity_regularizer="l2", name="hidden")(inputs)
    student = keras.Model(inputs, layers.Dense(3)(hidden))
    distiller, _ = made(student=student, optimizer=keras.optimizers.SGD(0.0))
    logs = distiller.train_on_batch(X, Y, return_dict=True)
    student(X)
    added = float(sum(student.losses))
    terms = 0.5 * logs["label_loss"] + 0.5 * logs["kl_divergence"]
    assert logs["loss"] - terms == pytest.approx(added, rel=1e-3) and added > 0


def test_a_copy_of_an_adapted_normalization_is_adapted():
    scale = layers.Normalization()
    scale.adapt(7 * X + 3)
    student = keras.Sequential([keras.Input((6,)), scale, layers.Dense(3)])
    _, teacher = made(student=student)
    np.testing.assert_array_equal(teacher.model(X), student(X))
