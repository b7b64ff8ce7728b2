"""Several outputs, which terms name as `compile` and `fit` do, or by their position."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill import Distiller, Term, losses
from keras_distill.training.outputs import by_output

RANDOM = np.random.default_rng(0)
X, IDS = RANDOM.normal(size=(16, 6)).astype("float32"), np.arange(16) % 3
SIZES = RANDOM.normal(size=(16, 2)).astype("float32")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net(width, seed):
    keras.utils.set_random_seed(seed)
    x = keras.Input((6,))
    hidden = layers.Dense(width, name="hidden")(x)
    heads = [layers.Dense(2, name="size"), layers.Dense(3, name="kind")]
    return keras.Model(x, [head(hidden) for head in heads])


def measured(term, loss, y, **fit):
    distiller = Distiller(net(4, 1), teacher=net(8, 2), terms=[term])
    distiller.compile(keras.optimizers.SGD(0.0), loss)
    return distiller.fit(X, y, batch_size=16, verbose=0, **fit).history[term.name][0]


@pytest.mark.parametrize("path", ["output:1", "output:kind"])
@pytest.mark.parametrize("named", [True, False])
def test_an_output_has_a_name_and_a_position(path, named):
    teacher, student = (np.asarray(keras.ops.convert_to_numpy(net(*each)(X)[1]), "float64")
                        for each in ((8, 2), (4, 1)))  # fmt: skip

    def kl(one, other):
        p, q = ([r / r.sum() for r in np.exp(z)] for z in (one, other))
        return [np.sum(a * np.log(a / b)) for a, b in zip(p, q)]

    target = np.eye(3)[IDS] > 0

    def parted(z):  # the class and all others, as logits of two
        return np.stack([z[target], np.log(np.exp(z[~target].reshape(-1, 2)).sum(-1))], -1)

    others = kl(teacher[~target].reshape(-1, 2), student[~target].reshape(-1, 2))
    expected = np.mean(kl(parted(teacher), parted(student))) + 8 * np.mean(others)
    loss = losses.DecoupledKD(alpha=1.0, beta=8.0, temperature=1.0)  # it takes the labels
    term = Term(loss, student=path, teacher=path, name="decoupled")
    if named:
        found = measured(term, {"kind": LOSS, "size": "mse"}, {"kind": IDS, "size": SIZES})
    else:
        found = measured(term, ["mse", LOSS], [SIZES, IDS])
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_weights_of_a_named_output():
    weights = [RANDOM.random(16).astype("float32") for _ in range(2)]
    teacher, student = (keras.ops.convert_to_numpy(net(*each)(X)[0]) for each in ((8, 2), (4, 1)))
    errors = [np.mean((t - s) ** 2) for t, s in zip(teacher, student)]
    term = Term("mse", student="output:size", teacher="output:size", name="error")
    found = measured(term, ["mse", LOSS], [SIZES, IDS], sample_weight=weights)
    np.testing.assert_allclose(found, np.average(errors, weights=weights[0]), rtol=1e-4)


def test_a_loss_by_name_says_what_a_named_output_is():
    binary = keras.losses.BinaryCrossentropy(from_logits=True)
    term = Term(losses.KLDivergence(2.0), student="output:0", teacher="output:size")
    with pytest.raises(ValueError, match="Give `BinaryKLDivergence`"):
        measured(term, {"size": binary, "kind": LOSS}, {"size": SIZES, "kind": IDS})


def test_an_unknown_output_names_those_that_there_are():
    term = Term("mse", student="output:sizes", teacher="output:size")
    with pytest.raises(ValueError, match="no `sizes`. It has: 0, 1, size, kind"):
        measured(term, ["mse", LOSS], [SIZES, IDS])


@pytest.mark.parametrize(
    "value, names, expected",
    [
        ([1, 2], ["a", "b"], {"0": 1, "1": 2, "a": 1, "b": 2}),
        ({"b": 2, "a": 1}, ["a", "b"], {"0": 1, "1": 2, "a": 1, "b": 2}),
        ({"b": 2}, ["a", "b"], {"1": 2, "b": 2}),
        ({"a": 1}, ["a"], 1),
        ({"boxes": 1}, ["a", "b"], {"boxes": 1}),
        ([1, 2, 3], ["a", "b"], [1, 2, 3]),
        (None, ["a"], None),
        (4, [], 4),
    ],
)
def test_what_is_given_for_each_output(value, names, expected):
    assert by_output(value, names) == expected
