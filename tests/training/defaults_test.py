"""Which terms a distiller has without `terms`, by the student's outputs and the compiled losses."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_distill import Distiller, Term

RANDOM = np.random.default_rng(0)
X, IDS = RANDOM.normal(size=(16, 6)).astype("float32"), np.arange(16) % 3
VALUES = RANDOM.normal(size=(16, 2)).astype("float32")
FROM_LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net(units, seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((6,)), layers.Dense(4, "relu"), layers.Dense(units)])


def several(form, seed):
    """Returns a model that answers with three classes and two values, as a dict or a list."""
    keras.utils.set_random_seed(seed)
    x = keras.Input((6,))
    kind, size = layers.Dense(3, name="kind")(x), layers.Dense(2, name="size")(x)
    return keras.Model(x, {"kind": kind, "size": size} if form is dict else [kind, size])


class Subclassed(keras.Model):
    def __init__(self, seed):
        super().__init__()
        self.inner = several(dict, seed)

    def call(self, x):
        return self.inner(x)


def fitted(student, teacher, y, loss, **compiled):
    distiller = Distiller(student, teacher=teacher)
    distiller.compile(keras.optimizers.SGD(0.0), loss, **compiled)
    return distiller, distiller.fit(X, y, batch_size=16, verbose=0).history


def log_softmax(z):
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def softened_divergence(teacher, student):
    p, q = log_softmax(teacher / 2), log_softmax(student / 2)
    return 4 * np.mean(np.sum(np.exp(p) * (p - q), axis=-1))


def quantile(y, prediction):
    error = ops.reshape(y, ops.shape(prediction)) - prediction
    return ops.mean(ops.maximum(0.9 * error, -0.1 * error), axis=-1)


def focal(y, logits):
    return keras.losses.binary_focal_crossentropy(y, logits, from_logits=True)


def soft(y, logits):
    return -ops.sum(y * ops.log_softmax(logits), axis=-1)


@pytest.mark.parametrize(
    "y, loss, units, name",
    [
        (RANDOM.normal(size=(16, 4)), quantile, 4, "mean_squared_error"),
        (RANDOM.normal(size=16), quantile, 1, "mean_squared_error"),
        (RANDOM.integers(0, 2, (16, 5)), focal, 5, "binary_kl_divergence"),
        (np.eye(3)[IDS], soft, 3, "kl_divergence"),
        (np.eye(3)[IDS] * 0.7 + 0.1, soft, 3, "kl_divergence"),
        (IDS, FROM_LOGITS, 3, "kl_divergence"),
    ],
    ids=["regression", "regression of one", "many labels", "one-hot", "smoothed", "ids"],
)
def test_labels_tell_what_a_loss_of_the_users_own_does_not(y, loss, units, name):
    y = y if y.dtype.kind == "i" and y.ndim == 1 else y.astype("float32")
    assert name in fitted(net(units, 1), net(units, 2), y, loss)[1]


@pytest.mark.parametrize("form", ["dict", "list", "subclassed"])
def test_each_of_several_outputs_has_a_term_with_the_weight_of_its_loss(form):
    made = {"dict": lambda seed: several(dict, seed), "list": lambda seed: several(list, seed),
            "subclassed": Subclassed}[form]  # fmt: skip
    student, teacher = made(1), made(2)
    names = ("kind", "size")
    y, loss, weights = (IDS, VALUES), (FROM_LOGITS, "mse"), (1.0, 0.3)
    if form != "list":
        y, loss, weights = (dict(zip(names, each)) for each in (y, loss, weights))
    _, history = fitted(student, teacher, _list(y), _list(loss), loss_weights=_list(weights))
    (z, s), (z2, s2) = (
        [ops.convert_to_numpy(each) for each in keras.tree.flatten(model(X))]
        for model in (student, teacher)
    )
    label = -np.mean(log_softmax(z)[np.arange(16), IDS]) + 0.3 * np.mean((s - VALUES) ** 2)
    divergence, error = softened_divergence(z2, z), np.mean((s - s2) ** 2)
    assert history["kl_divergence_kind"][0] == pytest.approx(divergence, rel=1e-5)
    assert history["mean_squared_error_size"][0] == pytest.approx(error, rel=1e-5)
    total = 0.5 * label + 0.5 * (divergence + 0.3 * error)
    assert history["loss"][0] == pytest.approx(total, rel=1e-5)


def _list(value):
    return list(value) if isinstance(value, tuple) else value


def test_an_output_without_a_loss_has_no_term():
    losses = {"kind": FROM_LOGITS, "size": None}
    distiller, _ = fitted(several(dict, 1), several(dict, 2), {"kind": IDS, "size": VALUES}, losses)
    assert [term.student for term in distiller.objective.terms] == ["output:kind"]


def test_the_only_output_of_a_dict():
    def single(seed):
        model = several(dict, seed)
        return keras.Model(model.input, {"kind": model.output["kind"]})

    student, teacher = single(1), single(2)
    _, history = fitted(student, teacher, {"kind": IDS}, {"kind": FROM_LOGITS})
    z, z2 = (ops.convert_to_numpy(model(X)["kind"]) for model in (student, teacher))
    expected = softened_divergence(z2, z)
    assert history["kl_divergence_kind"][0] == pytest.approx(expected, rel=1e-5)


def test_every_output_learns_from_the_only_output_of_the_teacher():
    x = keras.Input((6,))
    outputs = {"first": layers.Dense(3)(x), "last": layers.Dense(3)(x)}
    distiller, _ = fitted(
        keras.Model(x, outputs), net(3, 2), {"first": IDS, "last": IDS},
        {"first": FROM_LOGITS, "last": FROM_LOGITS},
    )  # fmt: skip
    found = [(term.student, term.teacher) for term in distiller.objective.terms]
    assert found == [("output:first", "output"), ("output:last", "output")]


def test_several_teachers_share_the_weight_of_each_output():
    teachers = {"a": several(dict, 2), "b": several(dict, 3)}
    y, losses = {"kind": IDS, "size": VALUES}, {"kind": FROM_LOGITS, "size": "mse"}
    distiller, _ = fitted(several(dict, 1), teachers, y, losses)
    assert {term.name: term.weight for term in distiller.objective.terms} == {
        "kl_divergence_kind_a": 0.5, "kl_divergence_kind_b": 0.5,
        "mean_squared_error_size_a": 0.5, "mean_squared_error_size_b": 0.5,
    }  # fmt: skip


def test_attached_terms_stay_and_a_new_loss_chooses_anew():
    distiller = Distiller(net(2, 1), teacher=net(2, 2))
    distiller.objective.attach(Term("mae", name="own"))
    names = []
    for y, loss in ((VALUES, "mse"), (IDS % 2, FROM_LOGITS)):
        distiller.compile(keras.optimizers.SGD(0.0), loss)
        names.append([*distiller.fit(X, y, batch_size=16, verbose=0).history])
    assert names == [
        ["label_loss", "loss", "mean_squared_error", "own"],
        ["kl_divergence", "label_loss", "loss", "own"],
    ]


def test_a_name_that_another_term_has_is_refused_and_the_terms_stay():
    distiller = Distiller(net(2, 1), teacher=net(2, 2))
    distiller.objective.attach(Term("mse"))
    distiller.compile(keras.optimizers.SGD(0.0), "mse")
    with pytest.raises(ValueError, match="Another term is named `mean_squared_error`"):
        distiller.fit(X, VALUES, verbose=0)
    names = {term.name for term in distiller.objective.terms}
    assert names == {"kl_divergence", "mean_squared_error"}


def test_outputs_without_losses_are_refused_by_name():
    distiller = Distiller(several(dict, 1), teacher=several(dict, 2))
    distiller.compile(keras.optimizers.SGD(0.0))
    with pytest.raises(ValueError, match="several parts .kind, size."):
        distiller.fit(X, verbose=0)
