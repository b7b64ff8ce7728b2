"""The code of docs/extend.md runs as it stands."""

import pathlib
import re

import keras
import numpy as np
from keras import layers

from keras_distill import Distiller

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "extend.md"


def net(width):
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(width, "relu", name="hidden"), layers.Dense(3)]
    )


def test_a_loss_a_teacher_a_callback_and_a_recipe():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    names = {"Distiller": Distiller, "student": net(4), "teacher": net(8), "x": x,
             "y": np.arange(16) % 3}  # fmt: skip
    exec(compile("\n".join(blocks), PAGE.name, "exec"), names)
    history = names["history"]
    assert {"kd", "last_vectors", "centred", "centred_weight"} <= {*history}
    assert all(np.isfinite(values).all() for values in history.values())
    assert history["centred_weight"] == [1.0, 0.5]
    kernel = names["distiller"].kept.numbers["centred_decay"].value
    assert float(keras.ops.convert_to_numpy(kernel)) == 0.25
