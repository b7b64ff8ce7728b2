"""Trains the same things on one device and on two replicas; prints what differs, as JSON.

A process of its own: logical devices must be made before anything runs, and one process holds one
strategy.
"""

import contextlib
import inspect
import json

import keras
import numpy as np
import tensorflow as tf

CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(CPU, [tf.config.LogicalDeviceConfiguration()] * 2)

from keras_distill import Distiller, Term, losses  # noqa: E402

STRATEGY = tf.distribute.MirroredStrategy(
    ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
)
CLASSES, TOKENS = 4, 3

# How a loss is made and the shapes of its inputs, where that is not `(classes,)` and
# `(tokens, classes)` with no argument but a temperature.
FAMILIES = {}


def exported_losses():
    for name in getattr(losses, "__all__", dir(losses)):
        kind = getattr(losses, name)
        base = losses.DistillationLoss
        if inspect.isclass(kind) and issubclass(kind, base) and kind is not base:
            warm = (
                {"temperature": 2.0} if "temperature" in inspect.signature(kind).parameters else {}
            )
            arguments, shapes = FAMILIES.get(name, (warm, [(CLASSES,), (TOKENS, CLASSES)]))
            for shape in shapes:
                yield f"{name}_{len(shape)}", kind(**arguments), shape


HEADS = {name: (loss, shape) for name, loss, shape in exported_losses()}


def network(width):
    """A head of its own for every loss, a hidden layer for hints, and one for labels."""
    x = keras.Input((5,), name="x")
    mask = keras.Input((TOKENS,), name="mask")
    hidden = keras.layers.Dense(width, "tanh", name="hint")(x)
    outputs = {"label": keras.layers.Dense(1, name="label")(hidden)}
    for name, (_, shape) in HEADS.items():
        head = keras.layers.Dense(int(np.prod(shape)), name=name)(x)
        outputs[name] = keras.layers.Reshape(shape)(head)
    return keras.Model({"x": x, "mask": mask}, outputs)


def terms():
    yield from (
        Term(loss, student=f"output:{name}", teacher=f"output:{name}", name=name,
             mask=("sample_weight", "input:mask") if len(shape) == 2 else "sample_weight")
        for name, (loss, shape) in HEADS.items()
    )  # fmt: skip
    yield Term(
        keras.losses.MeanSquaredError(),
        student="hint",
        teacher="hint",
        projector="auto",
        name="hint",
    )


def data(size, labels):
    random = np.random.default_rng(size)
    x = {
        "x": random.normal(size=(size, 5)).astype("float32"),
        "mask": (np.arange(TOKENS) <= random.integers(0, TOKENS, (size, 1))).astype("float32"),
    }
    weight = random.uniform(0.1, 3, size).astype("float32")
    return x, labels(random, size), weight


def fill(variables, seed):
    random = np.random.default_rng(seed)
    for variable in variables:
        variable.assign(random.normal(size=variable.shape) * 0.5)


def train(strategy, size, batch_size, weighted, optimizer="sgd", steps_per_execution=1):
    """The weights and the logs after two epochs without labels."""
    x, y, weight = data(size, lambda random, size: random.integers(0, CLASSES, size))
    with strategy.scope() if strategy else contextlib.nullcontext():
        student, teacher = network(6), network(9)
        fill(teacher.trainable_variables, 1)
        distiller = Distiller(student, teacher=teacher, terms=list(terms()), alpha=1.0)
        distiller.compile(
            optimizer=keras.optimizers.get(
                {"class_name": optimizer, "config": {"learning_rate": 0.05}}
            ),
            loss=None,
            jit_compile=False,
            steps_per_execution=steps_per_execution,
        )
    fit = {
        "x": x,
        "y": y,
        "batch_size": batch_size,
        "sample_weight": weight if weighted else None,
        "shuffle": False,
        "verbose": 0,
    }
    distiller.fit(**fit, epochs=0)  # builds the projectors
    fill(distiller.trainable_variables, 2)
    history = distiller.fit(**fit, epochs=2).history
    weights = {variable.path: variable.numpy() for variable in distiller.trainable_variables}
    return weights, history


def evaluate(strategy):
    """What `evaluate` measures, on even batches."""
    x, y, _ = data(16, lambda random, size: random.integers(0, CLASSES, size))
    with strategy.scope() if strategy else contextlib.nullcontext():
        student, teacher = (
            keras.Sequential([keras.Input((5,)), keras.layers.Dense(CLASSES)]) for _ in range(2)
        )
        distiller = Distiller(student, teacher=teacher)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile("sgd", loss=loss, metrics=["accuracy"], jit_compile=False)
    fill(student.trainable_variables, 3)
    return distiller.evaluate(x["x"], y, batch_size=8, verbose=0, return_dict=True)


def compare(**arguments):
    one, one_logs = train(None, **arguments)
    two, two_logs = train(STRATEGY, **arguments)
    untrained = [
        v for v, start in zip(one.values(), _started(one), strict=True) if np.allclose(v, start)
    ]
    return {
        "variables": {
            f"{index} {path}": float(np.abs(value - other).max())
            for index, ((path, value), other) in enumerate(
                zip(one.items(), two.values(), strict=True)
            )
        },
        "logs": {
            name: float(np.abs(np.subtract(value, two_logs[name])).max())
            for name, value in one_logs.items()
        },
        "same_logs": sorted(one_logs) == sorted(two_logs),
        "finite": all(np.isfinite(value).all() for value in two.values()),
        "untrained": len(untrained),
    }


def _started(weights):
    random = np.random.default_rng(2)
    return [random.normal(size=value.shape) * 0.5 for value in weights.values()]


CASES = {
    "uneven": {"size": 11, "batch_size": 16, "weighted": False},
    "uneven weighted": {"size": 11, "batch_size": 16, "weighted": True},
    "last batch of one": {"size": 9, "batch_size": 8, "weighted": False},
    "steps_per_execution": {
        "size": 11, "batch_size": 4, "weighted": True,
        "steps_per_execution": 2, "optimizer": "adam",
    },
}  # fmt: skip

if __name__ == "__main__":
    report = {name: compare(**arguments) for name, arguments in CASES.items()}
    report["heads"] = list(HEADS)
    report["evaluate"] = [evaluate(None), evaluate(STRATEGY)]
    print(json.dumps(report))
