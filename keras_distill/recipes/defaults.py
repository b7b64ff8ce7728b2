"""A recipe that is good without tuning, chosen by what is known before training."""

import itertools
from typing import NamedTuple

import keras
import numpy as np

from keras_distill.losses import BinaryKLDivergence, answers
from keras_distill.recipes.outputs import dist, hinton
from keras_distill.training.term import Term

BATCHES = 64  # of a split, that are looked at
SHARE = 0.5


class Signs(NamedTuple):
    """What is known before a student is distilled.

    Args:
        kind: `"classes"`, `"binary"` (one unit that says yes or no) or `"values"` (a regression).
        classes: how many the teacher tells apart; 1 for the other kinds.
        train: the teacher's accuracy on the training split in [0, 1]; R squared for values.
        confidence: the teacher's mean probability of its answer there; `None` for values.
        valid: the teacher's accuracy, or R squared, on the validation split.
        fit: the accuracy on the training split of the student trained alone; `None` if not known.
        updates: how many updates the student is trained for; `None` if not known.
    """

    kind: str
    classes: int
    train: float
    confidence: float | None
    valid: float | None = None
    fit: float | None = None
    updates: int | None = None


class Default(NamedTuple):
    """What `default` chose.

    Args:
        terms: a list of `Term`s, for `Distiller(terms=...)`.
        alpha: the share of the teacher, for `Distiller(alpha=...)`.
        setting: the same as `tune` writes it, a dict.
        reasons: a sentence for each choice.
        signs: the `Signs` that it was chosen by.
    """

    terms: list
    alpha: float
    setting: dict
    reasons: list
    signs: Signs


def default(teacher, train, valid=None, *, fit=None, updates=None):
    """Chooses loss, temperature and alpha by what the teacher says of the data.

    The rules, and what each was learned from, stand in `docs/tuning.md`.

    Args:
        teacher: a Keras model of one output, or a function of the inputs: logits, probabilities, or
            the values of a regression.
        train: batches of `(x, y)`, the training split; the first 64 batches are looked at.
        valid: the same of the validation split. Defaults to `None`: not looked at.
        fit: the accuracy in [0, 1] that the student alone reaches on the training split. Defaults
            to `None`: not known.
        updates: for how many updates it is trained: epochs times batches. Defaults to `None`: not
            known.

    Returns:
        A `Default`, a named tuple of `terms`, `alpha`, `setting`, `reasons` and `signs`.

    Raises:
        ValueError: for no data, or a teacher of several outputs.

    Example:

    ```python
    chosen = recipes.default(teacher, train, valid)
    print(*chosen.reasons, sep="\\n")
    Distiller(student, teacher=teacher, terms=chosen.terms, alpha=chosen.alpha)
    ```
    """
    found = signs(*_asked(teacher, train))
    if valid is not None:
        found = found._replace(valid=signs(*_asked(teacher, valid)).train)
    return chosen_by(found._replace(fit=fit, updates=updates))


def _asked(teacher, batches):
    """The teacher's outputs and the labels of the first batches."""
    outputs, labels = [], []
    for batch in itertools.islice(batches, BATCHES):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        output = teacher.predict_on_batch(x) if isinstance(teacher, keras.Model) else teacher(x)
        if keras.tree.is_nested(output):
            raise ValueError(
                "`default` takes a teacher of one output. Give a function that picks one. "
                f"Received: a teacher of {len(keras.tree.flatten(output))} outputs"
            )
        outputs.append(keras.ops.convert_to_numpy(output))
        labels.append(np.asarray(y))
    if not outputs:
        raise ValueError("`train` must hold at least one batch. Received: none")
    return np.concatenate(outputs), np.concatenate(labels)


def signs(outputs, labels):
    """The `Signs` of a teacher's outputs beside the labels of the same examples.

    Args:
        outputs: an array `(examples, units)`.
        labels: integer classes, one-hot ones, yes or no as 0 and 1, or values.
    """
    outputs = np.asarray(outputs, "float64").reshape(len(outputs), -1)
    labels = np.asarray(labels)
    if outputs.shape[-1] > 1:
        return _of_classes(outputs, labels)
    labels, outputs = labels.astype("float64").ravel(), outputs.ravel()
    if set(np.unique(labels)) <= {0.0, 1.0}:
        return _of_yes_or_no(outputs, labels)
    error = np.mean((outputs - labels) ** 2)
    return Signs("values", 1, float(1 - error / max(np.var(labels), 1e-12)), None)


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
    """The `Default` that the rules give for some `Signs`."""
    setting, reasons = _VALUES.get(found.kind) or _of_classes_setting(found)
    return Default(_terms(setting), setting["alpha"], setting, reasons, found)


_VALUES = {
    "values": ({"loss": "mse", "alpha": SHARE},
               ["The student follows the teacher's values: a regression."]),
    "binary": ({"loss": "binary", "alpha": SHARE},
               ["The student follows the teacher's yes or no."]),
}  # fmt: skip


def _of_classes_setting(found):
    if found.classes == 2:
        why = "Two classes have no order among the others: the outputs are matched (`hinton`)."
        return {"recipe": "hinton", "temperature": 2.0, "alpha": SHARE}, [why]
    why = f"{found.classes} classes: their order and spread are matched (`dist`)."
    return {"recipe": "dist", "temperature": 4.0, "alpha": SHARE}, [why]


def _terms(setting):
    kind = setting.get("loss")
    if kind is not None:
        return [Term("mse" if kind == "mse" else BinaryKLDivergence(temperature=2.0))]
    return {"hinton": hinton, "dist": dist}[setting["recipe"]](temperature=setting["temperature"])
