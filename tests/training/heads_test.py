"""Terms that do not fit a head, and Keras's losses as terms."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_distill import Distiller, ModelTeacher, Term, losses

RANDOM = np.random.default_rng(0)
X, IDS = RANDOM.normal(size=(16, 6)).astype("float32"), np.arange(16) % 3
FROM_LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net(width, seed, units=3, head=None):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(width, "relu"), layers.Dense(units, activation=head)]
    )


def logs(y, loss, units=3, terms=None, teacher=None, head=None):
    teacher = teacher or net(8, 2, units, head)
    distiller = Distiller(net(4, 1, units, head), teacher=teacher, terms=terms)
    distiller.compile(keras.optimizers.SGD(0.0), loss)
    return distiller.fit(X, y, batch_size=16, verbose=0).history


def test_a_teachers_hard_labels():
    teacher = net(8, 2)
    found = logs(IDS, FROM_LOGITS, terms=[Term(FROM_LOGITS, name="hard")],
                 teacher=ModelTeacher(lambda x: ops.argmax(teacher(x), axis=-1)))  # fmt: skip
    z = ops.convert_to_numpy(net(4, 1)(X)).astype("float64")
    ids = ops.convert_to_numpy(teacher(X)).argmax(-1)
    expected = np.mean([np.log(np.exp(row).sum()) - row[i] for row, i in zip(z, ids)])
    np.testing.assert_allclose(found["hard"][0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "loss, head, words",
    [
        ("categorical_crossentropy", None, "Give `losses.SoftCrossEntropy`"),
        ("binary_crossentropy", None, "Give `losses.BinaryKLDivergence`"),
        (FROM_LOGITS, None, "takes class ids"),
        (keras.losses.CategoricalCrossentropy(from_logits=True), "softmax", "from_logits=False"),
    ],
)
def test_a_cross_entropy_of_keras_on_what_it_does_not_take(loss, head, words):
    labels = keras.losses.SparseCategoricalCrossentropy(from_logits=head is None)
    with pytest.raises(ValueError, match=words):
        logs(IDS, labels, terms=[Term(loss)], head=head)


def test_a_cross_entropy_of_keras_with_a_teachers_probabilities():
    teacher = net(8, 2, head="softmax")
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    found = logs(IDS, FROM_LOGITS, terms=[Term(loss, name="soft")], teacher=teacher)
    z, p = (ops.convert_to_numpy(each(X)).astype("float64") for each in (net(4, 1), teacher))
    expected = np.mean([np.sum(q * (np.log(np.exp(r).sum()) - r)) for q, r in zip(p, z)])
    np.testing.assert_allclose(found["soft"][0], expected, rtol=1e-5)
    assert isinstance(losses.as_distillation_loss(loss), losses.DistillationLoss)


def test_a_cross_entropy_of_the_users_own_takes_what_it_takes():
    def cross_entropy(teacher, student):
        return -ops.sum(ops.softmax(teacher) * ops.log_softmax(student), axis=-1)

    student, teacher = net(4, 1), net(8, 2)
    found = logs(IDS, FROM_LOGITS, terms=[Term(cross_entropy, name="own")], teacher=teacher)
    values = cross_entropy(teacher(X), student(X))
    np.testing.assert_allclose(found["own"][0], np.mean(values), rtol=1e-5)
