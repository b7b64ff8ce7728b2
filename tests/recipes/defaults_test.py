"""What is known before training, and what is chosen by it."""

import keras
import numpy as np
import pytest

from keras_distill import losses, recipes
from keras_distill.recipes.defaults import chosen_by, signs

RANDOM = np.random.default_rng(0)


def test_signs_of_logits_are_those_of_a_loop():
    logits, labels = RANDOM.normal(size=(50, 4)), RANDOM.integers(0, 4, 50)
    right, sure = [], []
    for row, label in zip(logits, labels):
        p = np.exp(row) / np.exp(row).sum()
        right.append(p.argmax() == label)
        sure.append(p.max())
    for given in (labels, np.eye(4)[labels]):
        found = signs(logits, given)
        assert (found.kind, found.classes) == ("classes", 4)
        assert found.train == pytest.approx(np.mean(right))
        assert found.confidence == pytest.approx(np.mean(sure))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert signs(p, labels).confidence == pytest.approx(np.mean(sure))


def test_signs_of_one_unit():
    yes = signs(np.array([[2.0], [-1.0], [0.5]]), np.array([1, 0, 0]))
    assert (yes.kind, yes.train) == ("binary", pytest.approx(2 / 3))
    values = np.array([1.0, 2.5, 4.0])
    found = signs(values[:, None] + 0.1, values)
    assert found.kind == "values"
    assert found.train == pytest.approx(1 - 0.01 / np.var(values))


def test_signs_of_yes_or_no_in_each_unit():
    logits = np.array([[2.0, -1.0, 0.5], [1.0, 3.0, -2.0]])
    found = signs(logits, np.array([[1, 0, 0], [1, 1, 0]]))
    assert (found.kind, found.train) == ("binary", pytest.approx(5 / 6))
    assert chosen_by(found).setting["loss"] == "binary"


def test_signs_of_several_numbers():
    values = RANDOM.normal(size=(20, 3)) * (1, 2, 3)
    found = signs(values + (0, 0.1, 0.2), values)
    wanted = np.mean([1 - e**2 / values[:, j].var() for j, e in enumerate((0, 0.1, 0.2))])
    assert found.kind == "values" and found.train == pytest.approx(wanted)
    assert signs(values, np.full((20, 3), 1 / 3)).kind == "classes"  # soft labels


def test_a_model_or_a_function_is_asked():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    x, y = RANDOM.normal(size=(20, 3)).astype("float32"), RANDOM.integers(0, 4, 20)
    batches = [(x[:10], y[:10]), (x[10:], y[10:])]
    asked = recipes.default(model, batches, batches[:1], alone_train=0.7)
    assert asked.signs.train == signs(model.predict(x, verbose=0), y).train
    assert asked.signs.valid == signs(model.predict(x[:10], verbose=0), y[:10]).train
    assert asked.signs.alone_train == 0.7 and asked.signs.valid_examples == 10
    assert recipes.default(lambda inputs: model(inputs), batches).setting == asked.setting
    with pytest.raises(ValueError, match="at least one batch"):
        recipes.default(model, [])
    with pytest.raises(ValueError, match="2 outputs"):
        recipes.default(lambda inputs: {"a": inputs, "b": inputs}, batches)


def test_what_fits_the_outputs_is_chosen():
    made = {kind: chosen_by(recipes.Signs(kind, 1, 0.9, None)) for kind in ("values", "binary")}
    assert made["values"].terms[0].name == "mean_squared_error"
    assert isinstance(made["binary"].terms[0].loss, losses.BinaryKLDivergence)
    for classes in (2, 10):
        found = chosen_by(recipes.Signs("classes", classes, 0.99, 0.9))
        assert found.alpha == found.setting["alpha"] and found.reasons
        (term,) = found.terms
        assert term.loss.temperature == found.setting["temperature"]


def test_the_share_follows_how_the_student_fits_and_whether_the_teacher_is_better():
    found = recipes.Signs("classes", 10, 0.99, 0.9, valid=0.9)
    assert chosen_by(found).alpha == 0.5
    assert chosen_by(found._replace(alone_train=0.85, alone_valid=0.8)).alpha == 0.5
    by_heart = chosen_by(found._replace(alone_train=0.95, alone_valid=0.8))
    assert by_heart.alpha == by_heart.setting["alpha"] == 0.9
    assert "memorizes" in by_heart.reasons[-1]
    few, many = (by_heart.signs._replace(valid=0.82, valid_examples=n) for n in (200, 2000))
    assert chosen_by(few).alpha == 0.1 and "standard error" in chosen_by(few).reasons[-1]
    assert chosen_by(many).alpha == 0.9  # an error of 0.012 for a lead of 0.02
    worse = chosen_by(found._replace(alone_train=1.0, alone_valid=0.92))
    assert worse.alpha == 0.1 and "is not better" in worse.reasons[-1]
    fits_alike = few._replace(alone_train=0.82)
    assert chosen_by(fits_alike).alpha == 0.1
    values = recipes.Signs("values", 1, 0.9, None, valid=0.9, alone_train=0.95, alone_valid=0.8)
    assert chosen_by(values).alpha == 0.5
