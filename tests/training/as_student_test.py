"""Every behaviour of a student, run on it and on a distiller around it: the values must be equal.

A row of `BEHAVIOURS` is a function of a compiled model and its data. It runs on the student alone,
on `Distiller(student, alpha=0)` and, where its value does not depend on what terms log, on a
distiller with a teacher and `alpha=0`. What differs on purpose stands in `docs/drop_in.md`.
`WHOLE` runs each row on six kinds of students. Without it they take turns: a kind of one output and
a kind of several have each row, but one kind alone has a row of `WHATEVER_OUTPUTS`.
"""

import csv
import io
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops
from whole import WHOLE

from keras_distill import Distiller

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(24, 6)).astype("float32")
Y = RANDOM.integers(0, 3, 24)
Z = RANDOM.normal(size=(24, 2)).astype("float32")
W = RANDOM.uniform(0.2, 2.0, 24).astype("float32")


def cross_entropy(**options):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.hidden, self.kind = layers.Dense(4, name="hidden"), layers.Dense(3, name="kind")

    def call(self, x, training=False):
        return self.kind(ops.relu(self.hidden(x)))


class SubclassedDict(Subclassed):
    def __init__(self):
        super().__init__()
        self.size = layers.Dense(2, name="size")

    def call(self, x, training=False):
        hidden = ops.relu(self.hidden(x))
        return {"kind": self.kind(hidden), "size": self.size(hidden)}


def sequential():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(4, "relu", kernel_regularizer="l2", name="hidden"),
            layers.BatchNormalization(name="norm"),
            layers.Dropout(0.3, name="dropout"),
            layers.Dense(3, name="kind"),
        ],
        name="sequential",
    )


def functional():
    inputs = keras.Input((6,), name="features")
    hidden = layers.Dense(4, "relu", name="hidden")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="kind")(hidden), name="functional")


def several(as_dict):
    inputs = keras.Input((6,), name="features")
    hidden = layers.Dense(4, "relu", name="hidden")(inputs)
    outputs = [layers.Dense(3, name="kind")(hidden), layers.Dense(2, name="size")(hidden)]
    outputs = dict(zip(("kind", "size"), outputs)) if as_dict else outputs
    return keras.Model(inputs, outputs, name="several")


ONE = {"sequential": sequential, "functional": functional, "subclassed": Subclassed}
MANY = {
    "list of outputs": lambda: several(False),
    "dict of outputs": lambda: several(True),
    "subclassed dict": SubclassedDict,
}


def settings(several, **more):
    if not several:
        return {"optimizer": keras.optimizers.SGD(0.1), "loss": cross_entropy(),
                "metrics": ["accuracy"], "run_eagerly": True, **more}  # fmt: skip
    return {
        "optimizer": keras.optimizers.SGD(0.1),
        "loss": {"kind": cross_entropy(), "size": "mse"},
        "loss_weights": {"kind": 1.0, "size": 0.5},
        "metrics": {"kind": ["accuracy"], "size": ["mae"]},
        "run_eagerly": True,
        **more,
    }


class Case:
    """A model that is compiled, with its data, and a fresh one like it."""

    def __init__(self, make, wrap, several, folder):
        self.make, self.wrap, self.several, self.folder = make, wrap, several, folder

    def model(self, compiled=True, **more):
        keras.utils.set_random_seed(1)
        student = self.make()
        student(X[:2])
        model = self.wrap(student)
        if compiled:
            model.compile(**settings(self.several, **more))
        return model

    @property
    def y(self):
        return {"kind": Y, "size": Z} if self.several else Y

    @property
    def labels(self):
        """As a list, where the outputs are one."""
        return self.y

    def fit(self, model, **more):
        keras.utils.set_random_seed(2)
        given = {"batch_size": 12, "epochs": 2, "verbose": 0, **more}
        return model.fit(X, self.y, **given)


def rounded(value):
    return keras.tree.map_structure(
        lambda v: np.round(np.asarray(v, "float64"), 5).tolist()
        if isinstance(v, (int, float, np.ndarray, np.generic))
        else v,
        value,
    )


def weights(model):
    student = model.student if isinstance(model, Distiller) else model
    return [np.asarray(w) for w in student.get_weights()]


def trained(case, compile=None, **fit):
    model = case.model(**(compile or {}))
    history = case.fit(model, **fit).history
    return history, weights(model)


class Events(keras.callbacks.Callback):
    """Writes down each hook with the names of its logs."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __getattribute__(self, name):
        if name.startswith("on_") and name not in ("on_batch_begin", "on_batch_end"):
            return lambda *args, **_: self.seen.append(
                (name, *(sorted(a) if isinstance(a, dict) else a for a in args))
            )
        return super().__getattribute__(name)


class Stops(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 1


def events_of(call):
    def behaviour(case):
        model, seen = case.model(), Events()
        call(case, model, [seen])
        return seen.seen

    return behaviour


def error_of(call):
    def behaviour(case):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call(case)
        except Exception as error:
            return type(error).__name__
        return "no error"

    return behaviour


def csv_rows(case):
    path = case.folder / "log.csv"
    case.fit(case.model(), callbacks=[keras.callbacks.CSVLogger(path)])
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    return [{k: v if v == "NA" else round(float(v), 5) for k, v in row.items()} for row in rows]


def checkpoint(case):
    model, path = case.model(), case.folder / "best.weights.h5"
    save = keras.callbacks.ModelCheckpoint(path, monitor="loss", save_best_only=True,
                                           save_weights_only=True)  # fmt: skip
    case.fit(model, callbacks=[save])
    keras.utils.set_random_seed(1)
    plain = case.make()
    plain(X[:2])
    plain.load_weights(path)
    return weights(plain)


def model_checkpoint(case):
    path = case.folder / "model.keras"
    save = keras.callbacks.ModelCheckpoint(path)
    case.fit(case.model(), callbacks=[save])
    loaded = keras.saving.load_model(path, custom_objects=CUSTOM, compile=False)
    return loaded.predict(X, verbose=0)


CUSTOM = {"Subclassed": Subclassed, "SubclassedDict": SubclassedDict}


def loads_the_students_file(case):
    plain, path = case.make(), case.folder / "plain.weights.h5"
    plain(X[:2])
    plain.save_weights(path)
    model = case.model()
    model.load_weights(path)
    return all(np.array_equal(a, b) for a, b in zip(weights(model), plain.get_weights()))


def resumed(case):
    model = case.model(optimizer=keras.optimizers.Adam(0.01))
    case.fit(model)
    path = case.folder / "all.weights.h5"
    model.save_weights(path)
    again = case.model(optimizer=keras.optimizers.Adam(0.01))
    again.optimizer.build(again.trainable_variables)
    again.load_weights(path)
    return int(again.optimizer.iterations), weights(again)


def early_stopping(case):
    stopper = keras.callbacks.EarlyStopping("loss", min_delta=10, patience=1,
                                            restore_best_weights=True)  # fmt: skip
    model = case.model()
    history = case.fit(model, epochs=5, callbacks=[stopper]).history
    return len(history["loss"]), stopper.best_epoch, weights(model)


def reduced_rate(case):
    plateau = keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=1, min_delta=10)
    model = case.model()
    case.fit(model, epochs=3, callbacks=[plateau])
    return float(model.optimizer.learning_rate)


def nan_ends(case):
    model = case.model()
    bad = np.full_like(X, np.nan)
    history = model.fit(bad, case.y, batch_size=8, epochs=3, verbose=0,
                        callbacks=[keras.callbacks.TerminateOnNaN()]).history  # fmt: skip
    return len(history["loss"])


def swapped(case):
    model = case.model(optimizer=keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))
    case.fit(model, callbacks=[keras.callbacks.SwapEMAWeights()], validation_data=(X, case.y))
    return weights(model)


def generator(case):
    def batches():
        for start in range(0, 24, 8):
            rows = slice(start, start + 8)
            yield X[rows], keras.tree.map_structure(lambda y, rows=rows: y[rows], case.y)

    model = case.model()
    history = model.fit(batches(), verbose=0).history
    return history, weights(model)


class Pages(keras.utils.PyDataset):
    def __init__(self, y, **kwargs):
        super().__init__(**kwargs)
        self.y = y

    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(8 * index, 8 * index + 8)
        return X[rows], keras.tree.map_structure(lambda y: y[rows], self.y)


def pages(case):
    model = case.model()
    keras.utils.set_random_seed(4)
    history = model.fit(Pages(case.y), epochs=2, shuffle=True, verbose=0).history
    return history, weights(model)


def recompiled(case):
    model = case.model()
    case.fit(model)
    model.compile(**settings(case.several, optimizer=keras.optimizers.SGD(0.01)))
    return case.fit(model).history, weights(model)


def from_config(case):
    model = case.model(optimizer=keras.optimizers.Adam(0.02))
    config = model.get_compile_config()
    again = case.model(compiled=False)
    again.compile_from_config(config)
    return sorted(config), type(again.optimizer).__name__, float(again.optimizer.learning_rate)


def frozen(case):
    model = case.model(compiled=False)
    model.trainable = False
    model.compile(**settings(case.several))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case.fit(model)
    return weights(model)


def names_of(model):
    return [metric.name for metric in model.metrics]


# `{name: (function of a case, whether a teacher at alpha=0 changes the value)}`.
PLAIN, LOGS = True, False
BEHAVIOURS = {
    "fit's history": (lambda c: trained(c)[0], LOGS),
    "fit's weights": (lambda c: trained(c)[1], PLAIN),
    "fit in a graph": (lambda c: trained(c, {"run_eagerly": False})[1], PLAIN),
    "fit, several steps a call": (
        lambda c: trained(c, {"run_eagerly": False, "steps_per_execution": 2}, batch_size=8)[1],
        PLAIN),
    "fit with Adam": (lambda c: trained(c, {"optimizer": keras.optimizers.Adam(0.01)})[1], PLAIN),
    "fit by a name of an optimizer": (lambda c: trained(c, {"optimizer": "sgd"})[1], PLAIN),
    "fit with clipping": (
        lambda c: trained(c, {"optimizer": keras.optimizers.SGD(0.1, clipnorm=0.1)})[1], PLAIN),
    "fit, accumulated": (lambda c: trained(
        c, {"optimizer": keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)})[1], PLAIN),
    "fit, one epoch": (lambda c: trained(c, epochs=1), LOGS),
    "fit, from a later epoch": (lambda c: trained(c, epochs=3, initial_epoch=2), LOGS),
    "fit, steps_per_epoch": (lambda c: trained(c, steps_per_epoch=2, batch_size=8)[1], PLAIN),
    "fit, not shuffled": (lambda c: trained(c, shuffle=False)[1], PLAIN),
    "fit, uneven batches": (lambda c: trained(c, batch_size=7)[1], PLAIN),
    "fit, validation_split": (lambda c: trained(c, validation_split=0.25), LOGS),
    "fit, validation_data": (lambda c: trained(c, validation_data=(X[:9], first(c.y, 9))), LOGS),
    "fit, validation with weights": (
        lambda c: trained(c, validation_data=(X[:9], first(c.y, 9), first(c.weight, 9))), LOGS),
    "fit, validation_freq": (
        lambda c: trained(c, validation_data=(X, c.y), validation_freq=2)[0], LOGS),
    "fit, validation_steps": (
        lambda c: trained(c, validation_data=(X, c.y), validation_steps=1)[0], LOGS),
    "fit, sample_weight": (lambda c: trained(c, sample_weight=c.weight)[1], PLAIN),
    "fit, a generator": (generator, LOGS),
    "fit, a PyDataset": (pages, LOGS),
    "fit twice": (recompiled, LOGS),
    "fit with a stop": (lambda c: len(trained(c, epochs=4, callbacks=[Stops()])[0]["loss"]), PLAIN),
    "fit, frozen": (frozen, PLAIN),
    "events of fit": (events_of(lambda c, m, b: c.fit(m, callbacks=b)), LOGS),
    "events of evaluate": (
        events_of(lambda c, m, b: m.evaluate(X, c.y, verbose=0, callbacks=b)), PLAIN),
    "events of predict": (events_of(lambda c, m, b: m.predict(X, verbose=0, callbacks=b)), PLAIN),
    "CSVLogger": (csv_rows, LOGS),
    "EarlyStopping": (early_stopping, PLAIN),
    "ReduceLROnPlateau": (reduced_rate, PLAIN),
    "TerminateOnNaN": (nan_ends, LOGS),
    "SwapEMAWeights": (swapped, PLAIN),
    "ModelCheckpoint of weights": (checkpoint, PLAIN),
    "ModelCheckpoint of the model": (model_checkpoint, PLAIN),
    "the student's weights file": (loads_the_students_file, PLAIN),
    "a file resumes": (resumed, PLAIN),
    "evaluate": (lambda c: c.model().evaluate(X, c.y, verbose=0), PLAIN),
    "evaluate's dict": (
        lambda c: c.model().evaluate(X, c.y, verbose=0, return_dict=True), PLAIN),
    "evaluate in a graph": (
        lambda c: c.model(run_eagerly=False).evaluate(X, c.y, verbose=0, batch_size=7), PLAIN),
    "evaluate with weights": (
        lambda c: c.model().evaluate(X, c.y, sample_weight=c.weight, verbose=0), PLAIN),
    "evaluate some steps": (
        lambda c: c.model().evaluate(X, c.y, batch_size=4, steps=2, verbose=0), PLAIN),
    "predict": (lambda c: c.model().predict(X, verbose=0), PLAIN),
    "predict in batches": (lambda c: c.model().predict(X, batch_size=5, verbose=0), PLAIN),
    "predict, not compiled": (lambda c: c.model(compiled=False).predict(X, verbose=0), PLAIN),
    "predict_on_batch": (lambda c: c.model().predict_on_batch(X), PLAIN),
    "train_on_batch": (lambda c: c.model().train_on_batch(X, c.y), LOGS),
    "train_on_batch, no metrics": (
        lambda c: c.model(metrics=None).train_on_batch(X, c.y), LOGS),
    "train_on_batch's dict": (
        lambda c: c.model().train_on_batch(X, c.y, return_dict=True), LOGS),
    "train_on_batch with weights": (
        lambda c: c.model().train_on_batch(X, c.y, sample_weight=c.weight), LOGS),
    "test_on_batch": (lambda c: c.model().test_on_batch(X, c.y), PLAIN),
    "test_on_batch's dict": (lambda c: c.model().test_on_batch(X, c.y, return_dict=True), PLAIN),
    "metrics' names": (lambda c: names_of(c.model()), LOGS),
    "metrics_names after fit": (lambda c: after_fit(c, lambda m: m.metrics_names), LOGS),
    "reset_metrics": (lambda c: after_fit(c, reset), LOGS),
    "weighted metrics": (lambda c: trained(
        c, {"weighted_metrics": c.accuracy}, sample_weight=c.weight)[0], LOGS),
    "get_compile_config": (from_config, PLAIN),
    "get_weights": (lambda c: weights(c.model()), PLAIN),
    "the compiled loss": (lambda c: type(c.model().loss).__name__, PLAIN),
    "layers": (lambda c: [each.name for each in c.model().layers], PLAIN),
    "get_layer": (lambda c: c.model().get_layer("hidden").name, PLAIN),
    "trainable variables": (
        lambda c: [tuple(v.shape) for v in c.model().trainable_variables], PLAIN),
    "inputs": (lambda c: len(getattr(c.model(), "inputs", None) or ()), PLAIN),
    "outputs": (lambda c: len(getattr(c.model(), "outputs", None) or ()), PLAIN),
    "output_names": (lambda c: getattr(c.model(), "output_names", None), PLAIN),
    "built": (lambda c: c.model().built, PLAIN),
    "a call": (lambda c: keras.tree.map_structure(ops.convert_to_numpy, c.model()(X)), PLAIN),
    "error: fit before compile": (error_of(lambda c: c.fit(c.model(compiled=False))), PLAIN),
    "error: evaluate before compile": (
        error_of(lambda c: c.model(compiled=False).evaluate(X, c.y, verbose=0)), PLAIN),
    "error: labels of another length": (
        error_of(lambda c: c.model().fit(X, first(c.y, 9), verbose=0)), PLAIN),
    "error: class_weight and sample_weight": (error_of(lambda c: c.model().fit(
        X, c.y, sample_weight=c.weight, class_weight={0: 1.0, 1: 1.0, 2: 1.0}, verbose=0)), PLAIN),
}  # fmt: skip
OF_ONE = {
    "loss by a name": (
        lambda c: trained(c, {"loss": "sparse_categorical_crossentropy"})[0], LOGS),
    "class_weight": (lambda c: trained(c, class_weight={0: 3.0, 1: 0.5, 2: 1.0})[1], PLAIN),
    "class_weight, one missing": (lambda c: trained(c, class_weight={0: 3.0})[1], PLAIN),
    "loss without a reduction": (
        lambda c: trained(c, {"loss": cross_entropy(reduction=None)})[1], PLAIN),
    "loss, summed": (lambda c: trained(c, {"loss": cross_entropy(reduction="sum")})[1], PLAIN),
    "a loss that is a function": (lambda c: trained(c, {"loss": squared})[1], PLAIN),
    "metrics that are objects": (lambda c: trained(
        c, {"metrics": [keras.metrics.SparseCategoricalAccuracy(name="right")]})[0], LOGS),
}
DEPENDS = {"subclassed": {"inputs", "outputs", "output_names"}}


def squared(y_true, y_pred):
    return ops.mean(ops.square(y_pred), axis=-1)


def first(structure, count):
    return keras.tree.map_structure(lambda each: each[:count], structure)


def after_fit(case, read):
    model = case.model()
    case.fit(model)
    return read(model)


def reset(model):
    model.reset_metrics()
    return [float(ops.sum(v)) for v in model.metrics[0].variables]


Case.weight = property(lambda self: {"kind": W, "size": W} if self.several else W)
Case.accuracy = property(lambda self: {"kind": ["accuracy"]} if self.several else ["accuracy"])
# What these do with batches, epochs, updates and callbacks is the same for one output and for many.
WHATEVER_OUTPUTS = {
    "fit, several steps a call", "fit with Adam", "fit by a name of an optimizer",
    "fit with clipping", "fit, accumulated", "fit, from a later epoch", "fit, steps_per_epoch",
    "fit, not shuffled", "fit, uneven batches", "fit, validation_freq", "fit, validation_steps",
    "fit with a stop", "fit, frozen", "events of fit", "events of evaluate", "events of predict",
    "EarlyStopping", "ReduceLROnPlateau", "TerminateOnNaN", "SwapEMAWeights", "a file resumes",
    "evaluate some steps", "predict in batches", "predict, not compiled", "get_weights",
    "the student's weights file", "ModelCheckpoint of weights", "get_compile_config",
}  # fmt: skip


if keras.backend.backend() == "jax":  # there Keras differentiates scalars alone, so it fails
    del OF_ONE["loss without a reduction"]


def takes_turn(name, turn, number, several):
    """Whether the kind of this number, of one output or of several, is to run the row."""
    if name not in WHATEVER_OUTPUTS:
        return turn % 3 == number
    place = sorted(WHATEVER_OUTPUTS).index(name)
    return place % 2 == several and place // 2 % 3 == number


ROWS = [
    pytest.param(make, several, *row, id=f"{kind}: {name}")
    for kinds, several in ((ONE, False), (MANY, True))
    for number, (kind, make) in enumerate(kinds.items())
    for turn, (name, row) in enumerate({**BEHAVIOURS, **({} if several else OF_ONE)}.items())
    if WHOLE or takes_turn(name, turn, number, several)
]


def result(behaviour, case):
    """What comes out, or the kind of error."""
    try:
        return rounded(behaviour(case))
    except Exception as error:
        return type(error).__name__


def alone(student):
    return Distiller(student, alpha=0)


def taught(student):
    from keras_distill import Term

    several = isinstance(student.call(X[:2]), dict) or len(getattr(student, "outputs", ())) > 1
    key = "kind" if isinstance(student.call(X[:2]), dict) else "0"
    path = f"output:{key}" if several else "output"
    keras.utils.set_random_seed(9)
    teacher = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    from keras_distill.losses import KLDivergence

    term = Term(KLDivergence(2.0), student=path, name="kd")
    return Distiller(student, teacher=teacher, terms=[term], alpha=0)


class OwnSteps(Subclassed):
    """Every step is its own, and takes data in the form in which Keras hands them on."""

    if keras.backend.backend() == "jax":

        def train_step(self, state, data):
            x, y = data
            logs, state = super().train_step(state, (2 * x, y))
            return {**logs, "trained": 7.0}, state

        def test_step(self, state, data):
            x, y = data
            logs, state = super().test_step(state, (2 * x, y))
            return {**logs, "tested": 5.0}, state

        def predict_step(self, state, data):
            outputs, state = super().predict_step(state, data)
            return outputs + 1, state

    else:

        def train_step(self, data):
            x, y = data
            return {**super().train_step((2 * x, y)), "trained": 7.0}

        def test_step(self, data):
            x, y = data
            return {**super().test_step((2 * x, y)), "tested": 5.0}

        def predict_step(self, data):
            return super().predict_step(data) + 1


def own_steps(case, eagerly):
    model = case.model(optimizer=keras.optimizers.Adam(0.01), run_eagerly=eagerly)
    history = case.fit(model, validation_data=(X, Y)).history
    return (history, weights(model), model.evaluate(X, Y, verbose=0, return_dict=True),
            model.predict(X, verbose=0))  # fmt: skip


@pytest.mark.parametrize("eagerly", [True, False])
def test_a_students_own_steps_are_run(eagerly, tmp_path):
    student, distiller = (own_steps(Case(OwnSteps, wrap, False, tmp_path), eagerly)
                          for wrap in (lambda student: student, alone))  # fmt: skip
    assert set(student[0]) >= {"trained", "val_tested"} and "tested" in student[2]
    assert str(rounded(distiller)) == str(rounded(student))
    with pytest.raises(ValueError, match="its own `train_step`.*cannot combine with a teacher"):
        taught(OwnSteps())


def test_functions_that_would_nest_the_student_in_a_file_are_refused(tmp_path):
    path, distiller = tmp_path / "all.weights.h5", alone(sequential())
    with pytest.raises(NotImplementedError, match=r"Call `distiller.save_weights\(path\)`"):
        keras.saving.save_weights(distiller, path)
    sequential().save_weights(path, overwrite=True)
    with pytest.raises(ValueError, match=r"`distiller.load_weights\(path\)`"):
        keras.saving.load_weights(distiller, path)


@pytest.mark.parametrize("make, several, behaviour, with_teacher", ROWS)
def test_a_distiller_does_what_its_student_does(make, several, behaviour, with_teacher, tmp_path):
    wraps = [lambda student: student, alone, *([taught] if with_teacher else [])]
    values = []
    for number, wrap in enumerate(wraps):
        folder = tmp_path / str(number)
        folder.mkdir()
        if make in (Subclassed, SubclassedDict) and behaviour is model_checkpoint:
            pytest.skip("a class without a config is not loaded by Keras")
        values.append(result(behaviour, Case(make, wrap, several, folder)))
    for value in values[1:]:
        keras.tree.assert_same_structure(value, values[0])
        assert str(value) == str(values[0])
