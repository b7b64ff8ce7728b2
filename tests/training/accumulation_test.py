"""With `gradient_accumulation_steps` what follows updates counts updates, and examples are seen."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_distill import Distiller, Term, losses

X = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
Y = np.arange(8) % 3
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
EVERY = 3  # batches an update


def net(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((6,)), layers.Dense(4, "tanh", name="hidden"),
                             layers.Dense(3)])  # fmt: skip


def made(rate, student=None, **given):
    distiller = Distiller(student or net(1), **{"teacher": net(2), **given})
    optimizer = keras.optimizers.SGD(rate, gradient_accumulation_steps=EVERY)
    distiller.compile(optimizer, CE)
    return distiller


def per_batch(distiller, batches):
    """The logs of each batch alone."""
    found = []
    for _ in range(batches):
        distiller.reset_metrics()
        logs = distiller.train_on_batch(X, Y, return_dict=True)
        found.append({name: float(value) for name, value in logs.items()})
    return found


def drops(values):
    """A schedule that has these values at the steps 0, 1, ..."""
    return keras.optimizers.schedules.PiecewiseConstantDecay([*range(len(values) - 1)], values)


@pytest.mark.parametrize("knob", ["alpha", "weight", "temperature"])
def test_schedules_count_updates(knob):
    values = [0.9, 0.6, 0.3]
    kl = losses.KLDivergence(drops(values) if knob == "temperature" else 2.0)
    weight = drops(values) if knob == "weight" else 1.0
    distiller = made(
        0.0,  # so that only the schedule changes a loss
        terms=[Term(kl, weight=weight, name="kd")],
        alpha=drops(values) if knob == "alpha" else 0.5,
    )
    for batch, logs in enumerate(per_batch(distiller, 3 * EVERY)):
        now = values[batch // EVERY]
        alpha = now if knob == "alpha" else 0.5
        weight = now if knob == "weight" else 1.0
        right = (1 - alpha) * logs["label_loss"] + alpha * weight * logs["kd"]
        assert logs["loss"] == pytest.approx(right, rel=1e-5)
        if knob == "temperature":
            assert logs["kd"] == pytest.approx(by_hand(distiller, now), rel=1e-4)


def by_hand(distiller, temperature):
    def log_softmax(model):
        z = ops.convert_to_numpy(model(X)).astype("float64") / temperature
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    p, q = log_softmax(net(2)), log_softmax(distiller.student)
    return temperature**2 * (np.exp(p) * (p - q)).sum(-1).mean()


def test_a_fault_names_the_update_and_adds_nothing_to_what_was_accumulated():
    good, bad = made(0.1), made(0.1)
    good.fit(X, Y, batch_size=2, epochs=3, shuffle=False, verbose=0)
    with pytest.raises(ValueError, match="step 1"):
        # Four batches are taken in, of which three make an update; the fifth is not finite.
        spoiled = np.concatenate([X, np.full_like(X[:2], np.nan)])
        bad.fit(spoiled, np.arange(10) % 3, batch_size=2, shuffle=False, verbose=0)
    assert int(ops.convert_to_numpy(bad.optimizer.iterations)) == 1
    bad.fit(X, Y, batch_size=2, epochs=2, shuffle=False, verbose=0)
    for one, other in zip(good.student.get_weights(), bad.student.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_memory_takes_in_the_examples_of_every_batch():
    inputs = {"image": keras.Input((6,), name="image"), "index": keras.Input((), name="index")}
    hidden = layers.Dense(4, "tanh", name="hidden")(inputs["image"])
    head = layers.Dense(3)(hidden)
    student = keras.Model(inputs, head + 0 * ops.expand_dims(inputs["index"], -1))
    teacher = keras.models.clone_model(student)
    loss = losses.ContrastiveRepresentation(examples=8, width=4, negatives=4, momentum=0.0, seed=1)
    index = {"feature": "hidden", "index": "input:index"}
    distiller = made(0.1, student, teacher=teacher,
                     terms=[Term(loss, student="hidden", teacher=index, name="crd")])  # fmt: skip
    data = {"image": X, "index": np.arange(8.0).astype("float32")}
    distiller.fit(data, Y, batch_size=2, epochs=0, verbose=0)
    distiller.train_on_batch({k: v[:2] for k, v in data.items()}, Y[:2])
    before = ops.convert_to_numpy(loss.layer.students)
    distiller.train_on_batch({k: v[2:4] for k, v in data.items()}, Y[2:4])
    moved = np.any(ops.convert_to_numpy(loss.layer.students) != before, axis=-1)
    assert moved.tolist() == [False, False, True, True, *[False] * 4]
    assert int(ops.convert_to_numpy(distiller.optimizer.iterations)) == 0
