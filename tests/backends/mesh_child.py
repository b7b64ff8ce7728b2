"""JAX: trains the same on one device and on meshes of many; prints what differs, as JSON.

A process of its own: the number of the host's devices is chosen before JAX begins.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 KERAS_BACKEND=jax python mesh_child.py
"""

import json

import keras
import numpy as np
from keras import layers

from keras_distill import Distiller, EMATeacher, EnsembleTeacher, Term, losses

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(160, 6)).astype("float32")
Y = np.arange(160) % 3
W = np.linspace(0.5, 2, 160).astype("float32")
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net(width):
    hidden = layers.Dense(width, "tanh", name="hidden")
    norm = layers.BatchNormalization(name="norm")
    return keras.Sequential(
        [keras.Input((6,)), hidden, norm, layers.Dense(3, name="head")], name=f"net{width}"
    )


def filled(variables, seed):
    """The same numbers on every mesh, which draws its own."""
    random = np.random.default_rng(seed)
    for variable in variables:
        if "float" in str(variable.dtype):
            value = 0.3 * random.normal(size=variable.shape)
            variable.assign(value + 1 if "variance" in variable.path else value)


def trained(distribution):
    """Everything at once: `(the state, the logs, how many devices hold the first weight)`."""
    with distribution.scope():
        student, teachers = net(8), [net(8), net(16)]
        for seed, model in enumerate([student, *teachers]):
            filled(model.variables, seed)
        terms = [
            Term(losses.KLDivergence(2.0), source="all", name="kd"),
            Term("mse", student="hidden", teacher="hidden", source="wide", projector="auto",
                 name="hint"),
            Term(losses.SimilarityPreserving(), student="hidden", teacher="hidden", source="wide",
                 name="relation"),
            Term(losses.RelationalDistance(), student="head", teacher="head", source="wide",
                 name="rkd"),
            Term(losses.KLDivergence(1.0), source="mean", name="mean"),
        ]  # fmt: skip
        sources = {"all": EnsembleTeacher(teachers), "wide": teachers[1], "mean": EMATeacher(0.9)}
        distiller = Distiller(student, teacher=sources, terms=terms, alpha=0.6)
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        distiller.compile(optimizer, CE, metrics=["accuracy"])
        distiller.fit(X, Y, batch_size=32, epochs=0, verbose=0)
        filled(distiller.projectors["hint"].variables, 9)
        history = distiller.fit(X, Y, batch_size=32, epochs=4, verbose=0, shuffle=False,
                                sample_weight=W, validation_data=(X, Y)).history  # fmt: skip
        holders = len(student.variables[0].value.sharding.device_set)
        mean = [np.asarray(v) for v in sources["mean"].model.variables]
        return [np.asarray(v) for v in student.variables] + mean, history, holders


def split_layers(mesh):
    """The hidden layers of student and teachers lie on two devices each."""
    layout = keras.distribution.LayoutMap(mesh)
    layout["hidden/kernel"] = (None, "model")
    layout["hidden/bias"] = ("model",)
    return layout


def meshes():
    devices = keras.distribution.list_devices()
    every = len(devices)
    for count in sorted({1, 4, every}):
        yield f"data {count}", keras.distribution.DataParallel(devices=devices[:count])
    mesh = keras.distribution.DeviceMesh((every // 2, 2), ("batch", "model"), devices)
    yield f"model {every // 2}x2", keras.distribution.ModelParallel(
        layout_map=split_layers(mesh), batch_dim_name="batch"
    )


def apart(one, other):
    return max(float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in zip(one, other))


def main():
    found, first = {}, None
    for name, distribution in meshes():
        arrays, logs, holders = trained(distribution)
        first = first or (arrays, logs)
        found[name] = {
            "weights": apart(arrays, first[0]),
            "logs": max(apart(logs[key], first[1][key]) for key in first[1]),
            "devices": holders,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
