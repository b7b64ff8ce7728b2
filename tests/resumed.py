"""A training with everything that changes while it trains; run as a script, it may be killed.

`python resumed.py FOLDER KIND [EPOCHS]` prints a digest of all variables and the losses, as JSON.
`KILL=number` in the environment has it killed by a signal after so many batches, `END=number` told
to end.
"""

import hashlib
import json
import os
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_distill import Distiller, EMATeacher, Term, losses
from keras_distill.callbacks import BalanceTerms, Resume
from keras_distill.training import resuming

CLASSES, ROWS, EPOCHS = 3, 44, 3  # 6 batches an epoch, the last of 4
KINDS = ("arrays", "dataset", "repeated", "pydataset", "unknown")


class Killed(BaseException):
    """Ends a `fit` as a kill does: nothing is called after it."""


class At(keras.callbacks.Callback):
    """Does something after so many batches."""

    def __init__(self, number, act):
        super().__init__()
        self.left, self.act = number, act

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            self.act()


class Batches(keras.utils.PyDataset):
    """Shuffles itself by NumPy's random numbers, as users' do."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y
        self.order = np.random.permutation(len(x))

    def __len__(self):
        return 6

    def __getitem__(self, index):
        rows = self.order[index * 8 : index * 8 + 8]
        return self.x[rows], self.y[rows]

    def on_epoch_end(self):
        self.order = np.random.permutation(len(self.x))


def kill():
    raise Killed


def data(kind, seed=0):
    """The arguments of `fit`."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(ROWS, 5)).astype("float32")
    y = random.integers(0, CLASSES, ROWS)
    if kind == "arrays":
        return {"x": x, "y": y, "batch_size": 8}
    if kind == "pydataset":
        return {"x": Batches(x, y)}
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(ROWS)
    if kind == "unknown":
        return {"x": dataset.batch(8).filter(lambda *_: True), "validation_data": (x[:9], y[:9])}
    if kind == "dataset":
        return {"x": dataset.batch(8), "validation_data": (x[:9], y[:9])}
    return {"x": dataset.repeat().batch(8), "steps_per_epoch": 5}


def net(width):
    return keras.Sequential([
        keras.Input((5,)), keras.layers.Dense(width, "tanh", name="hint"),
        keras.layers.BatchNormalization(), keras.layers.Dropout(0.3), keras.layers.Dense(CLASSES)
    ])  # fmt: skip


def distiller_of(kind):
    """A student with dropout, two teachers of which one moves, projectors and balanced weights."""
    student, teacher = net(4), net(7)
    teachers = {"teacher": teacher, "mean": EMATeacher(0.9)}
    terms = [
        Term(losses.KLDivergence(2.0)),
        Term("mse", source="mean", name="mean"),
        Term("mse", student="hint", teacher="hint", projector="auto", name="hint"),
    ]
    distiller = Distiller(student, teacher=teachers, terms=terms)
    rate = keras.optimizers.schedules.CosineDecay(0.01, 20)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    steps = 2 if kind == "dataset" and keras.backend.backend() != "torch" else 1
    distiller.compile(keras.optimizers.AdamW(rate), loss, metrics=["accuracy"],
                      steps_per_execution=steps)  # fmt: skip
    return distiller


def train(kind, folder, callbacks=(), every=2, epochs=EPOCHS, seed=0):
    """All variables after a training, by their values, and its history."""
    keras.utils.set_random_seed(seed)
    distiller = distiller_of(kind)
    given = data(kind)
    own = [BalanceTerms({"hint": 0.2}, verbose=0)]
    own += [] if folder is None else [Resume(folder, every)]
    history = distiller.fit(**given, epochs=epochs, callbacks=[*own, *callbacks], verbose=0).history
    return resuming.arrays(distiller.changing_variables()), history


def digest(arrays):
    found = hashlib.sha256()
    for array in arrays:
        found.update(array.tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    stops = [At(int(os.environ[name]), lambda number=number: os.kill(os.getpid(), number))
             for name, number in (("KILL", signal.SIGKILL), ("END", signal.SIGTERM))
             if name in os.environ]  # fmt: skip
    epochs = int(sys.argv[3]) if len(sys.argv) > 3 else EPOCHS
    weights, history = train(sys.argv[2], sys.argv[1], stops, epochs=epochs)
    print(json.dumps([digest(weights), history]))
