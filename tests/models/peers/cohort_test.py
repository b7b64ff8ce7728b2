"""Models trained together: as alone where nothing binds them, each with its own rate."""

import keras
import numpy as np
import pytest
from keras import layers
from kinds import BACKEND, arrays

from keras_distill import Distiller, Term, losses, models, recipes

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(32, 6)).astype("float32")
Y = np.arange(32) % 3
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
FIT = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}


def net(width, name=None):
    inputs = keras.Input((6,))
    hidden = layers.Dense(width, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="head")(hidden), name=name)


def pair():
    return net(4), net(8)


def twin(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def alone(model, optimizer):
    copy = twin(model)
    copy.compile(optimizer, CE)
    copy.fit(X, Y, **FIT)
    return copy.get_weights()


# PyTorch updates all variables of one rate at once, in another order of operations.
EXACT = 3e-6 if BACKEND == "torch" else 1e-7
OPTIMIZERS = {
    "momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
    "adamw": lambda rate: keras.optimizers.AdamW(rate, weight_decay=0.1),
    "lion": lambda rate: keras.optimizers.Lion(rate, weight_decay=0.1),
    "schedule": lambda rate: keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(rate, decay_steps=6)
    ),
    "nadam": lambda rate: keras.optimizers.Nadam(rate),
    "accumulation": lambda rate: keras.optimizers.Adam(rate, gradient_accumulation_steps=2),
    "clipnorm": lambda rate: keras.optimizers.SGD(rate, clipnorm=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_member_trains_as_alone_at_its_own_rate(name):
    make, rate = OPTIMIZERS[name], 0.03125  # powers of two: the product of rates is exact
    big, small = pair()
    expected = alone(big, make(rate / 4)), alone(small, make(rate))
    cohort = models.cohort(teacher=big, student=small)
    distiller = Distiller(cohort)
    distiller.compile(models.scale_learning_rates(make(rate), {cohort.teacher: 0.25}), CE)
    distiller.fit(X, Y, **FIT)
    for model, weights in zip((big, small), expected):
        for found, wanted in zip(model.get_weights(), weights):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=EXACT)


def test_a_multiplier_of_zero_freezes():
    cohort = models.cohort(teacher=net(4), student=net(8))
    before = cohort.teacher.get_weights()
    distiller = Distiller(cohort)
    adam = keras.optimizers.AdamW(0.1)
    distiller.compile(models.scale_learning_rates(adam, {cohort.teacher: 0}), CE)
    distiller.fit(X, Y, **FIT)
    for old, new in zip(before, cohort.teacher.get_weights()):
        np.testing.assert_array_equal(old, new)
    assert not adam.built


def test_callbacks_still_move_the_learning_rate():
    cohort = models.cohort(teacher=net(4), student=net(8))
    distiller = Distiller(cohort)
    distiller.compile(
        models.scale_learning_rates(keras.optimizers.Adam(0.1), {cohort.teacher: 0.5}), CE
    )
    before = cohort.get_weights()
    stop = keras.callbacks.LearningRateScheduler(lambda epoch: 0.0)
    distiller.fit(X, Y, callbacks=[stop], **FIT)
    for old, new in zip(before, cohort.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_members_teach_each_other_and_are_tapped_by_their_names():
    cohort = models.cohort(teacher=net(4), student=net(4))
    terms = [
        Term(losses.KLDivergence(), student="output:student", teacher="output:teacher",
             source="self", name="kl"),
        Term("mse", student="student/hidden", teacher="teacher/hidden", source="self", name="hint"),
    ]  # fmt: skip
    distiller = Distiller(cohort, terms=terms, alpha=1.0)
    distiller.compile(keras.optimizers.Adam(0.05))
    teacher = cohort.teacher.get_weights()
    history = distiller.fit(X, epochs=10, verbose=0).history
    assert history["kl"][-1] < history["kl"][0] and history["hint"][-1] < history["hint"][0]
    for old, new in zip(teacher, cohort.teacher.get_weights()):
        np.testing.assert_array_equal(old, new)  # without labels nothing moves the teacher


def test_a_member_is_the_model_that_was_given(tmp_path):
    big, small = pair()
    cohort = models.cohort(teacher=big, student=small)
    assert cohort.student is small and cohort.members["teacher"] is big
    distiller = Distiller(cohort)
    distiller.compile("adam", CE, metrics=["accuracy"])
    history = distiller.fit(X, Y, verbose=0, validation_data=(X, Y)).history
    assert {"student_accuracy", "val_teacher_accuracy"} <= {*history}
    cohort.student.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(arrays(loaded(X)), arrays(cohort(X)["student"]))
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in small.layers]
    if BACKEND == "tensorflow":
        cohort.student.export(tmp_path / "saved", verbose=False)


def test_the_cohort_itself_is_saved_and_its_weights_too(tmp_path):
    cohort = models.cohort(teacher=net(4), student=net(8))
    cohort.save(tmp_path / "cohort.keras")
    loaded = keras.models.load_model(tmp_path / "cohort.keras")
    np.testing.assert_array_equal(arrays(loaded(X)["teacher"]), arrays(cohort(X)["teacher"]))
    other = models.cohort(teacher=net(4), student=net(8))
    cohort.save_weights(tmp_path / "cohort.weights.h5")
    other.load_weights(tmp_path / "cohort.weights.h5")
    np.testing.assert_array_equal(arrays(other(X)["student"]), arrays(cohort(X)["student"]))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def test_members_of_other_kinds_and_precisions():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = net(4)
    finally:
        keras.config.set_dtype_policy("float32")
    cohort = models.cohort(narrow=half, late=Subclassed())
    distiller = Distiller(cohort)
    distiller.compile("adam", CE)
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    assert np.isfinite(distiller.fit(X, Y, verbose=0).history["loss"]).all()
    outputs = cohort(X)
    dtypes = [keras.backend.standardize_dtype(outputs[k].dtype) for k in ("narrow", "late")]
    assert dtypes == ["float16", "float32"]


def test_scaled_rates_under_loss_scaling():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        cohort = models.cohort(a=net(4), b=net(8))
    finally:
        keras.config.set_dtype_policy("float32")
    before = cohort.a.get_weights()
    distiller = Distiller(cohort)
    distiller.compile(models.scale_learning_rates(keras.optimizers.Adam(0.1), {cohort.a: 0}), CE)
    distiller.fit(X, Y, **FIT)
    for old, new in zip(before, cohort.a.get_weights()):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "members, error, message",
    [
        (lambda: {"a": net(4)}, ValueError, "at least two"),
        (lambda: dict.fromkeys("ab", net(4)), ValueError, "the same model as another"),
        (lambda: {"a": net(4), "b": 3}, TypeError, "Keras model"),
        (lambda: {"fit": net(4), "b": net(4)}, ValueError, "named `fit`"),
        (lambda: {"a": net(4, "b"), "b": net(4)}, ValueError, "another member"),
    ],
)
def test_refused_members(members, error, message):
    with pytest.raises(error, match=message):
        models.cohort(**members())


def test_refused_rates():
    model = net(4)
    adam = keras.optimizers.Adam()
    for multipliers, message in (
        ({model: -1}, "non-negative"),
        ({Subclassed(): 2}, "not built"),
        ({model: 2, model.get_layer("head"): 1}, "two of the layers"),
    ):
        with pytest.raises(ValueError, match=message):
            models.scale_learning_rates(adam, multipliers)
    with pytest.raises(ValueError, match="inner optimizer"):
        models.scale_learning_rates(keras.optimizers.LossScaleOptimizer(adam), {model: 1})
    adam.build(model.trainable_variables)
    with pytest.raises(ValueError, match="not yet built"):
        models.scale_learning_rates(adam, {model: 1})


def test_what_is_left_out_of_weight_decay_stays_left_out():
    one, other = pair()
    adam = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    adam.exclude_from_weight_decay(var_names=["bias"])
    scaled = models.scale_learning_rates(adam, {one: 0.5})
    decays = [scaled._use_weight_decay(variable) for variable in other.trainable_variables]
    assert decays == [True, False, True, False]


def test_the_names_of_the_outputs_are_public():
    cohort = models.cohort(teacher=net(4), student=net(8))
    assert cohort.output_names == ["teacher", "student"] == [*cohort(X)]
    assert not hasattr(cohort, "_outputs_struct")
    assert len(recipes.one(cohort, ensemble="teacher")) == 1
