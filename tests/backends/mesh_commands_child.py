"""JAX: `train` on one device and with `--mesh`; prints how far the students are apart, as JSON.

A process of its own: the number of the host's devices is chosen before JAX begins.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 KERAS_BACKEND=jax
    python mesh_commands_child.py FOLDER
"""

import contextlib
import functools
import io
import json
import pathlib
import sys

import keras
import numpy as np

from keras_distill.cli.main import main

FILE = """
import keras, numpy as np, tensorflow as tf
from keras_distill import Experiment

def model(width, seed):
    dense = [keras.layers.Dense(units, activation, name=name,
        kernel_initializer=keras.initializers.RandomNormal(seed=seed))
        for units, activation, name in ((width, "tanh", "hidden"), (3, None, "head"))]
    return keras.Sequential([keras.Input((4,)), *dense])

def data(split):
    x = np.random.default_rng(0).normal(size=(24, 4)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, x[:, :3].argmax(-1))).batch(BATCH)

def experiment():
    return Experiment("tiny", student=lambda: model(4, 1), teacher=lambda: model(8, 2), data=data,
        optimizer=keras.optimizers.SGD, epochs=2, seeds=1,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
"""


def said(folder, name, *options, batch=8):
    """What `train` says on stderr, beside its exit code."""
    file = folder / f"by_{batch}.py"
    file.write_text(FILE.replace("BATCH", str(batch)))
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        code = main(["train", f"--experiment={file}", f"--out={folder / name}", *options])
    return code, errors.getvalue()


class Places(keras.callbacks.Callback):
    """How many devices hold the weights of a model that trains, and how many parts of a matrix."""

    seen = set()

    def on_train_begin(self, logs=None):
        kernel = self.model.trainable_variables[0].value
        whole = kernel.sharding.is_fully_replicated
        self.seen.add((len(kernel.sharding.device_set), "whole" if whole else "split"))


def weights(folder, name):
    return keras.saving.load_model(folder / name / "arms" / "distilled-0.keras").get_weights()


def main_of(folder):
    found = {"code": [said(folder, "one")], "places": {}}
    for mesh in ("data:4", "data:2,model:2"):
        Places.seen.clear()
        found["code"].append(said(folder, mesh, f"--mesh={mesh}"))
        found["places"][mesh] = sorted(Places.seen)
        pairs = zip(weights(folder, "one"), weights(folder, mesh))
        found[mesh] = max(float(np.abs(a - b).max()) for a, b in pairs)
    command = json.loads((folder / "data:4" / "report.json").read_text())["command"]
    found["command"] = command
    found["uneven"] = said(folder, "uneven", "--mesh=data:4", batch=7)
    found["many"] = said(folder, "many", "--mesh=data:8")
    found["wrong"] = said(folder, "wrong", "--mesh=model:2")
    found["strategy"] = said(folder, "wrong", "--strategy=mirrored")
    print(json.dumps(found))


@functools.wraps(keras.Model.fit)
def watched_fit(self, *args, callbacks=(), **kwargs):
    return watched_fit.__wrapped__(self, *args, callbacks=[*callbacks, Places()], **kwargs)


if __name__ == "__main__":
    keras.Model.fit = watched_fit
    main_of(pathlib.Path(sys.argv[1]))
