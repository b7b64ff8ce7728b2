"""Online and self-distillation keep their promises in every way that Keras trains."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill import Distiller, EMATeacher, Term, models, recipes
from keras_distill.callbacks import SelfDistillation

X = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype("float32")
Y = np.arange(16) % 3
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def cnn():
    """Without biases before a normalization, of which only rounding is the gradient."""
    x = inputs = keras.Input((8, 8, 1))
    for block in (1, 2):
        x = layers.Conv2D(4, 3, strides=2, use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU(name=f"after_{block}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, dtype="float32")(x))


def dense(width):
    inputs = keras.Input((8, 8, 1))
    x = layers.Dense(width, use_bias=False)(layers.Flatten()(inputs))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(3, dtype="float32")(x))


def with_exits():
    return models.add_exits(cnn(), {"exit_1": "after_1"})


def own_teacher():
    net = with_exits()
    return Distiller(net, terms=recipes.byot(net)), {}


def opened_by_a_callback():
    hint = {"exit_1_feature": "pool"}
    callback = SelfDistillation("final", "exit_1", hint=hint, start_epoch=1)
    return Distiller(with_exits()), {"callbacks": [callback]}


def peers():
    net = models.cohort(one=dense(3), other=dense(5))
    return Distiller(net, terms=recipes.mutual("one", "other")), {}


def online():
    """With a rate of its own for the teacher and a mean of both."""
    net = models.cohort(teacher=dense(6), student=dense(3))
    term = Term("mse", student="output:student", teacher="output:student", source="mean",
                name="consistency")  # fmt: skip
    terms = [*recipes.online(back=0.5), term]
    return Distiller(net, teacher={"mean": EMATeacher(0.9)}, terms=terms), {"scales": net.teacher}


def gated_branches():
    inputs = keras.Input((8, 8, 1))
    trunk = layers.Conv2D(4, 3, activation="relu", name="trunk")(inputs)
    outputs = {}
    for name in ("branch_0", "branch_1"):
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(5, 3, activation="relu")(trunk))
        outputs[name] = layers.Dense(3, dtype="float32")(x)
    net = models.gated_ensemble(keras.Model(inputs, outputs), gate="trunk")
    return Distiller(net, terms=recipes.one(net)), {}


SCHEMES = (own_teacher, opened_by_a_callback, peers, online, gated_branches)
schemes = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.__name__)


def trained(scheme, *callbacks, epochs=4, policy="float32", **compiled):
    """The distiller, the state after training, and what was logged."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    try:
        distiller, extras = scheme()
    finally:
        keras.config.set_dtype_policy("float32")
    optimizer = keras.optimizers.Adam(0.01)
    if "scales" in extras:
        optimizer = models.scale_learning_rates(optimizer, {extras["scales"]: 0.25})
    distiller.compile(optimizer, CE, metrics=["accuracy"], **compiled)
    try:
        history = distiller.fit(
            X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0,
            callbacks=[*extras.get("callbacks", []), *callbacks],
        )  # fmt: skip
    except KeyboardInterrupt:
        return None
    means = [teacher.model for teacher in distiller.teachers.values() if hasattr(teacher, "model")]
    found = [*distiller.student.get_weights(), *(w for mean in means for w in mean.get_weights())]
    return found, history.history


@functools.cache
def usual(scheme):
    return trained(scheme)


def close(one, other, tolerance):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@schemes
def test_several_steps_an_execution_compute_the_same(scheme):
    (weights, logs), (others, other_logs) = usual(scheme), trained(scheme, steps_per_execution=2)
    close(weights, others, 1e-5)
    assert {*logs} == {*other_logs}
    close([logs[key] for key in logs], [other_logs[key] for key in logs], 1e-5)


@pytest.mark.parametrize(
    "scheme, policy",
    [*((scheme, "mixed_bfloat16") for scheme in SCHEMES), (own_teacher, "mixed_float16"),
     (online, "mixed_float16")],
)  # fmt: skip
def test_mixed_precision_trains_nearly_as_float32_does(scheme, policy):
    logs, half = usual(scheme)[1], trained(scheme, policy=policy)[1]
    assert {*logs} == {*half}
    assert logs["loss"] != half["loss"]  # it was another arithmetic
    totals = [key for key in logs if key.endswith("loss")]
    close([half[key] for key in totals], [logs[key] for key in totals], 0.05)


class PowerCut(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@schemes
def test_a_killed_fit_resumes_bit_for_bit(scheme, tmp_path):
    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    whole, logs = usual(scheme)
    assert trained(scheme, backup(), PowerCut()) is None
    resumed, later = trained(scheme, backup())
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, other)
    assert later["loss"] == logs["loss"][2:]
