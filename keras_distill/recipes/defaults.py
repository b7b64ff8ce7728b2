"""Chooses a recipe that needs no tuning, by what is known before training."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_distill.losses import BinaryKLDivergence, answers
from keras_distill.recipes.outputs import hinton
from keras_distill.training.term import Term

BATCHES = 64  # the number of batches of a split that are read
SHARE, LITTLE, MUCH = 0.5, 0.1, 0.9
GAP = 0.1  # between training and validation split, of a student that overfits


class Signs(NamedTuple):
    """What is known before a student is distilled.

    Args:
        kind: `"classes"`, `"binary"` (each unit says yes or no) or `"values"` (a regression).
        classes: how many classes the teacher has; 1 for the other kinds.
        train: the teacher's accuracy on the training split in [0, 1]; R squared for values.
        confidence: the teacher's mean probability of its own answers there; `None` for values.
        valid: the teacher's accuracy, or R squared, on the validation split.
        alone_train: the accuracy of the student trained alone on the training split, or `None`.
        alone_valid: the same on the validation split.
        valid_examples: how many examples of the validation split were looked at; `None` if not
            known.

    Example:

    ```python
    signs = recipes.default(teacher, dataset).signs
    signs.kind, signs.classes  # ("classes", 10)
    ```
    """

    kind: str
    classes: int
    train: float
    confidence: float | None
    valid: float | None = None
    alone_train: float | None = None
    alone_valid: float | None = None
    valid_examples: int | None = None


class Default(NamedTuple):
    """The choice of `default`.

    Args:
        terms: a list of `Term`s, for `Distiller(terms=...)`.
        alpha: the share of the teacher, for `Distiller(alpha=...)`.
        setting: the same as `tune` writes it, a dict.
        reasons: a sentence for each choice.
        signs: the `Signs` that led to the choice.

    Example:

    ```python
    chosen = recipes.default(teacher, dataset)
    print(*chosen.reasons, sep="\\n")
    ```
    """

    terms: list
    alpha: float
    setting: dict
    reasons: list
    signs: Signs


def default(
    teacher: Callable[[Any], Any],
    train: Iterable,
    valid: Iterable | None = None,
    *,
    alone_train: float | None = None,
    alone_valid: float | None = None,
) -> Default:
    """Runs the teacher on the data, and chooses loss, temperature and alpha.

    `docs/tuning.md` has the rules, and the measurements behind them.

    Args:
        teacher: a Keras model with one output, or a function of the inputs, which returns logits,
            probabilities, or the values of a regression.
        train: batches of `(x, y)`, the training split. Only the first 64 batches are used.
        valid: batches of the validation split. Defaults to `None`: no validation split.
        alone_train: the accuracy in [0, 1], or R squared, of the student trained alone, on the
            training split. Defaults to `None`: unknown.
        alone_valid: the same on the validation split.

    Returns:
        A `Default`, a named tuple of `terms`, `alpha`, `setting`, `reasons` and `signs`.

    Raises:
        ValueError: if there are no data, or the teacher has several outputs.

    Example:

    ```python
    chosen = recipes.default(teacher, dataset)
    print(*chosen.reasons, sep="\\n")
    Distiller(student, teacher=teacher, terms=chosen.terms, alpha=chosen.alpha)
    ```
    """
    found = signs(*_asked(teacher, train))
    if valid is not None:
        outputs, labels = _asked(teacher, valid)
        found = found._replace(valid=signs(outputs, labels).train, valid_examples=len(labels))
    return chosen_by(found._replace(alone_train=alone_train, alone_valid=alone_valid))


def _asked(teacher, batches):
    """Returns the teacher's outputs and the labels of the first batches."""
    outputs, labels = [], []
    for batch in itertools.islice(batches, BATCHES):
        x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
        output = teacher.predict_on_batch(x) if isinstance(teacher, keras.Model) else teacher(x)
        if keras.tree.is_nested(output):
            raise ValueError(
                "`default` needs a teacher with one output. Give a function that returns one. "
                f"Received: a teacher of {len(keras.tree.flatten(output))} outputs"
            )
        output, y = keras.ops.convert_to_numpy(output), np.asarray(y)
        classes = output.shape != y.shape or np.isin(y, (0, 1)).all()
        if output.ndim > 2 and classes:  # one for each token or pixel
            (output,), y, _ = answers.counted_rows([output], y, weights)
        outputs.append(output)
        labels.append(y)
    if not outputs:
        raise ValueError("`train` must hold at least one batch. Received: none")
    return np.concatenate(outputs), np.concatenate(labels)


def signs(outputs, labels):
    """Returns the `Signs` of a teacher's outputs and the labels of the same examples.

    Args:
        outputs: an array `(examples, units)`.
        labels: integer classes, one-hot ones, yes or no as 0 and 1 for each unit, or values.
    """
    outputs = np.asarray(outputs, "float64").reshape(len(outputs), -1)
    labels = np.asarray(labels)
    values = labels.shape == outputs.shape and not answers.are_probabilities(labels)
    if outputs.shape[-1] > 1 and not values:
        return _of_classes(outputs, labels)
    labels = labels.astype("float64").reshape(outputs.shape)
    if set(np.unique(labels)) <= {0.0, 1.0}:
        return _of_yes_or_no(outputs.ravel(), labels.ravel())
    errors, spreads = np.mean((outputs - labels) ** 2, 0), np.maximum(np.var(labels, 0), 1e-12)
    return Signs("values", 1, float(np.mean(1 - errors / spreads)), None)


def _of_classes(outputs, labels):
    p = outputs
    if not answers.are_probabilities(outputs):
        p = np.exp(outputs - outputs.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
    ids = keras.ops.convert_to_numpy(answers.class_ids(labels, outputs))
    accuracy = float(np.mean(p.argmax(-1) == ids))
    return Signs("classes", p.shape[-1], accuracy, float(p.max(-1).mean()))


def _of_yes_or_no(outputs, labels):
    p = outputs if 0 <= outputs.min() <= outputs.max() <= 1 else 1 / (1 + np.exp(-outputs))
    accuracy = float(np.mean((p > 0.5) == (labels > 0.5)))
    return Signs("binary", 1, accuracy, float(np.maximum(p, 1 - p).mean()))


def chosen_by(found):
    """Returns the `Default` that the rules choose for some `Signs`."""
    loss, why = _loss(found)
    alpha, reason = _share(found)
    setting = {**loss, "alpha": alpha}
    return Default(terms_of(setting), alpha, setting, [why, reason], found)


def _loss(found):
    if found.kind == "values":
        return {"loss": "mse"}, "This is a regression. The student learns the teacher's values."
    if found.kind == "binary":
        return {"loss": "binary"}, "The student learns the teacher's probability of each yes."
    why = (
        f"The student learns the teacher's probabilities of {found.classes} classes (`hinton`) at "
        "temperature 1. A higher temperature needs more updates than a small student gets."
    )
    return {"recipe": "hinton", "temperature": 1.0}, why


def _share(found):
    """Returns the share of the teacher, and the reason."""
    if None not in (found.valid, found.alone_valid):
        error = _error_of_lead(found)
        if found.valid - found.alone_valid <= error:
            bar = " by more than the standard error" if error else ""
            return LITTLE, (
                f"The teacher ({found.valid:.4f} on the validation split) is not better than the "
                f"student alone ({found.alone_valid:.4f}){bar}, so the teacher gets a small share."
            )
    if None not in (found.alone_train, found.alone_valid):
        gap = found.alone_train - found.alone_valid
        if gap >= GAP and found.kind != "values":
            return MUCH, (
                f"The student alone is {gap:.4f} better on the training split than on the "
                "validation split. It memorizes the labels, so the teacher gets a large share."
            )
    return SHARE, "Labels and teacher get equal shares."


def _error_of_lead(found):
    """Returns the standard error of the teacher's lead in accuracy, or 0 if it is not known."""
    if found.kind == "values" or found.valid_examples is None:
        return 0.0
    spread = sum(each * (1 - each) for each in (found.valid, found.alone_valid))
    return (spread / found.valid_examples) ** 0.5


def terms_of(setting):
    """Returns the terms of a `Default`'s setting."""
    kind = setting.get("loss")
    if kind is not None:
        return [Term("mse" if kind == "mse" else BinaryKLDivergence(temperature=2.0))]
    return hinton(temperature=setting["temperature"])
