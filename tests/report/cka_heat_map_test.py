"""The heat map of CKA against a plain formula of NumPy."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill import report

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")


def net(width=4, seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,))
    hidden = layers.Dense(width, name="hidden")(inputs)
    hidden = layers.BatchNormalization(name="norm")(hidden)
    return keras.Model(inputs, layers.Dense(3, name="head")(hidden))


def shown(model, layer):
    found = keras.Model(model.inputs, model.get_layer(layer).output)(X)
    return keras.ops.convert_to_numpy(found)


def cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    cross = np.linalg.norm(x.T @ y) ** 2
    return cross / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def test_a_recurrent_layer_is_shown_and_its_cell_is_not():
    model = keras.Sequential([keras.Input((5, 3)), layers.GRU(4, name="read"),
                              layers.Dense(2, name="head")])  # fmt: skip
    steps = np.random.default_rng(0).normal(size=(8, 5, 3)).astype("float32")
    matrix, paths, _ = report.cka_heat_map(model, model, steps)
    assert paths == ["read", "head"] and matrix[0, 0] == pytest.approx(1)


def test_the_heat_map_is_numpys_and_a_picture(tmp_path):
    student, teacher = net(), net(8, seed=1)
    path = tmp_path / "cka.png"
    matrix, ours, theirs = report.cka_heat_map(student, teacher, X, path)
    assert ours == theirs == ["hidden", "head"]
    for i, one in enumerate(theirs):
        for j, other in enumerate(ours):
            expected = cka(shown(student, other), shown(teacher, one))
            assert matrix[i, j] == pytest.approx(expected, rel=1e-4)
    assert path.read_bytes().startswith(b"\x89PNG")
    matrix, ours, _ = report.cka_heat_map(student, student, X, student_paths=["norm", "hidden"])
    assert ours == ["norm", "hidden"] and matrix.shape == (2, 2)
    assert matrix[0, 1] == pytest.approx(1)  # the diagonal of `hidden` with itself
    with pytest.raises(ValueError, match="Give paths"):
        report.cka_heat_map(student, lambda x: x, X)
    np.testing.assert_allclose(report.cka_heat_map(student, teacher, X * 0)[0], 0)
