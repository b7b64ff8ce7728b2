"""Models and functions that teach live."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_distill import Distiller, ModelTeacher, Term

X = np.random.default_rng(0).normal(size=(24, 6)).astype("float32")
Y = np.arange(24) % 3


def net(width, seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(width, "relu", name="hidden"), layers.Dense(3)]
    )


def trained(teacher):
    """A student's weights after two epochs with a teacher."""
    distiller = Distiller(net(4, 1), teacher=teacher)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.1), loss)
    distiller.fit(X, Y, epochs=2, batch_size=8, shuffle=False, verbose=0)
    return distiller.student.get_weights()


def assert_same(weights, expected):
    for weight, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-6)


def test_a_saved_model_teaches_as_the_model_it_was(tmp_path):
    teacher = net(8, 2)
    expected = trained(teacher)
    teacher.export(tmp_path / "teacher", verbose=False)
    assert_same(trained(tf.saved_model.load(tmp_path / "teacher")), expected)


def test_a_black_box_teaches_as_the_model_it_was():
    teacher = net(8, 2)
    hidden, output = teacher.get_weights()[:2], teacher.get_weights()[2:]

    def answer(x):
        return np.maximum(x @ hidden[0] + hidden[1], 0) @ output[0] + output[1]

    def black_box(x):
        return tf.ensure_shape(tf.numpy_function(answer, [x], tf.float32), (None, 3))

    assert_same(trained(black_box), trained(teacher))


def test_what_is_no_teacher_is_refused():
    with pytest.raises(TypeError, match="SavedModel.*signatures.*Received: 3"):
        ModelTeacher(3)
    hint = Term("mse", student="hidden", teacher="hidden")
    with pytest.raises(ValueError, match="no layers"):
        Distiller(net(4, 1), teacher=lambda x: x, terms=[hint])


def test_a_distiller_stands_for_the_student_that_it_has_trained():
    first = Distiller(net(8, 2), teacher=net(8, 3))
    assert_same(trained(first), trained(net(8, 2)))
    hint = Term("mse", student="hidden", teacher="hidden", projector="auto")
    Distiller(net(4, 1), teacher=first, terms=[hint])
    with pytest.raises(TypeError, match="Give `distiller.student`"):
        Distiller(first, teacher=net(8, 2))


def test_an_input_that_does_not_fit_names_the_way_out():
    wide = keras.Sequential([keras.Input((9,)), layers.Dense(3)], name="wide")
    with pytest.raises(ValueError, match=r"`wide` takes.*\(None, 9\).*preprocess=function"):
        trained(wide)


def test_inputs_by_name_fit_in_any_order():
    sizes = {"title": 6, "body": 2}
    x = {name: np.ones((24, size), "float32") for name, size in sizes.items()}
    student, teacher = [], []
    for models in (student, teacher):
        inputs = [keras.Input((size,), name=name) for name, size in sizes.items()]
        models.append(keras.Model(inputs, layers.Dense(3)(layers.Concatenate()(inputs))))
    distiller = Distiller(student[0], teacher=teacher[0])
    distiller.compile("sgd")
    assert np.isfinite(distiller.fit(x, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("x, words", [([X, X], "1 input.*have 2"), ({"a": X}, "'b'.*have.*'a'")])
def test_inputs_that_the_teacher_lacks_name_the_way_out(x, words):
    b = keras.Input((6,), name="b")
    teacher = keras.Model({"b": b} if isinstance(x, dict) else b, layers.Dense(3)(b))
    inputs = keras.tree.map_structure(lambda _: keras.Input((6,)), x)
    both = layers.Add()([*keras.tree.flatten(inputs), *keras.tree.flatten(inputs)])
    distiller = Distiller(keras.Model(inputs, layers.Dense(3)(both)), teacher=teacher)
    distiller.compile("sgd")
    with pytest.raises(ValueError, match=f"{words}.*preprocess=function"):
        distiller.fit(x, verbose=0)
