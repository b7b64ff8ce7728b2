"""Schedules as the last step saw them."""

import keras
import numpy as np
from keras import layers

from keras_distill import Distiller, Term, losses
from keras_distill.callbacks import ScheduleLogger

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = np.arange(32) % 3


def net(width):
    return keras.Sequential([keras.Input((6,)), layers.Dense(width), layers.Dense(3)])


class Wrapped(losses.DistillationLoss):
    """A loss that holds another."""

    def __init__(self, inner):
        super().__init__(name="wrapped")
        self.inner = inner

    def call(self, y_true, y_pred):
        return self.inner.call(y_true, y_pred)


def test_alpha_weights_and_temperatures():
    linear = keras.optimizers.schedules.PolynomialDecay
    opened = keras.Variable(0.25, trainable=False)
    terms = [
        Term(losses.KLDivergence(linear(4.0, 8, 2.0)), weight=linear(1.0, 8, 0.0), name="kd"),
        Term(Wrapped(losses.KLDivergence(3.0)), weight=opened, name="soft"),
        Term("mse", weight=2, name="answers"),
    ]
    distiller = Distiller(net(4), teacher=net(8), terms=terms, alpha=linear(0.8, 8, 0.4))
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = distiller.fit(
        X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[ScheduleLogger()]
    ).history
    expected = {
        "alpha": [0.65, 0.45],
        "kd_weight": [0.625, 0.125],
        "kd_temperature": [3.25, 2.25],
        "soft_weight": [0.25, 0.25],
        "soft_temperature": [3.0, 3.0],
        "answers_weight": [2.0, 2.0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5, err_msg=name)
    assert "answers_temperature" not in history
