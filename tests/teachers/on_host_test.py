"""Functions that answer in NumPy, as scikit-learn and ONNX Runtime do."""

import collections
import dataclasses
import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_distill import Distiller, Term, losses
from keras_distill.teachers.on_host import OnHost

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(24, 6)).astype("float32"), np.arange(24) % 3
KERNEL = RANDOM.normal(size=(6, 3))
Answer = collections.namedtuple("Answer", "hidden logits")


@dataclasses.dataclass
class Output:
    """What a model of another library may return."""

    hidden: object
    logits: object


def numbers(x):
    return np.asarray(x).astype("float64") @ KERNEL


def tensors(x):
    return ops.matmul(x, ops.cast(KERNEL, x.dtype))


def fields(x):
    return Answer(x, tensors(x))


def attributes(x):
    return Output(x, tensors(x))


def arrays_by_key(x):
    return collections.OrderedDict(hidden=np.asarray(x), logits=numbers(x))


@functools.cache
def trained(function, path="output"):
    """A student's weights after two epochs with a teacher, the last batch of which is smaller."""
    keras.utils.set_random_seed(1)
    student = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    term = Term(losses.KLDivergence(2.0), teacher=path)
    distiller = Distiller(student, teacher=function, terms=[term])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.1), loss)
    distiller.fit(X, Y, epochs=2, batch_size=16, shuffle=False, verbose=0)
    return student.get_weights()


@pytest.mark.parametrize(
    "function, path",
    [
        (numbers, "output"),
        (fields, "output:logits"),
        (fields, "output:1"),
        (attributes, "output:logits"),
        (arrays_by_key, "output:logits"),
    ],
)
def test_it_teaches_as_one_that_answers_in_tensors(function, path):
    for found, expected in zip(trained(function, path), trained(tensors)):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("function", [fields, attributes])
def test_several_parts_without_a_name_are_refused(function):
    with pytest.raises(ValueError, match=r"several parts \(.*hidden, logits\).*`output:KEY`"):
        trained(function)


@pytest.mark.parametrize(
    "kind, expected", [("float16", "float32"), ("int64", "int32"), ("bool", "bool")]
)
def test_numbers_of_every_kind_become_the_backends(kind, expected):
    found = OnHost(lambda x: np.ones((2, 3), kind))(ops.ones((2, 3)))
    assert keras.backend.standardize_dtype(found.dtype) == expected
