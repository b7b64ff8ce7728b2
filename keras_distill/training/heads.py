"""Tells what a head answers, and refuses terms that do not fit it."""

import inspect

import keras
import numpy as np
from keras import ops, tree

from keras_distill._keras.graph import output_names
from keras_distill._keras.layers import logits_of
from keras_distill._messages import say
from keras_distill.batch import TopK
from keras_distill.losses import BinaryKLDivergence, ClassSubset, Standardized
from keras_distill.losses.answers import are_probabilities
from keras_distill.losses.plain import KerasLoss, argument_of
from keras_distill.losses.softened import Divergence
from keras_distill.taps.paths import parts_of
from keras_distill.training.outputs import by_output

TOLERANCE = 1e-3  # for an activation that is recognized by its values
# Small logits may lie between 0 and 1 by chance: how many values it takes, and how large a one.
ENOUGH, LARGE = 32, 0.25
BINARY = ("BinaryCrossentropy", "BinaryFocalCrossentropy")
REGRESSION = (
    "Huber", "LogCosh", "MeanAbsoluteError", "MeanAbsolutePercentageError", "MeanSquaredError",
    "MeanSquaredLogarithmicError",
)  # fmt: skip


def check(objective, features, targets):
    """Raises an error for a term that fits neither the student's head nor the compiled loss."""
    loss = by_output(objective.loss, output_names(objective.student))
    for term in objective.terms:
        if isinstance(term.loss, KerasLoss):
            _check_cross_entropy(term, features, targets[term.source])
        if term.loss.expects_logits:
            _check_parts(term, features, targets[term.source])
            _check_logits(term, loss, features, targets[term.source])


def _check_parts(term, features, targets):
    """Raises an error for several outputs if a loss compares the logits of one."""
    for side, values in (("student", features), ("teacher", targets)):
        path = getattr(term, side)
        value = values[path] if isinstance(path, str) else None
        parts = {} if isinstance(value, TopK) else parts_of(value)
        if parts:
            raise ValueError(
                f"`{term.name}`: the {side}'s `{path}` has several parts ({', '.join(parts)}). "
                f"Name one of them as `{path}:KEY`."
            )


def _check_logits(term, loss, features, targets):
    """Raises an error for a softmax over independent answers, or for probabilities as logits."""
    compiled = kind_of_loss(loss, term.student)
    for side, values in (("student", features), ("teacher", targets)):
        for path in tree.flatten(getattr(term, side)):
            value = values[path]
            if isinstance(value, TopK) or not ops.is_tensor(value) or len(value.shape) < 2:
                continue
            activation = activation_of(value)
            _check_one(term, side, path, value, activation, compiled)
            if logits_of(value) is None:
                sigmoid = isinstance(term.loss, BinaryKLDivergence)
                told = side == "student" and _says_logits(loss, path)
                _check_probabilities(term, side, path, value, sigmoid and not told)
            if logits_of(value) is not None:
                say(
                    f"`{term.name}`: the {side}'s `{path}` ends in {activation}. The loss uses its "
                    "logits."
                )


def _check_one(term, side, path, value, activation, compiled):
    where = f"`{term.name}`: the {side}'s `{path}`"
    softmax, sigmoid = (
        isinstance(_inner(term.loss), Divergence),
        isinstance(term.loss, BinaryKLDivergence),
    )
    if softmax and value.shape[-1] == 1:
        raise ValueError(
            f"{where} has one unit, {tuple(value.shape)}, but the divergence between distributions "
            "over one class is always 0. Give `BinaryKLDivergence` for a binary classifier, or a "
            'loss on values such as "mse" for a regression.'
        )
    independent = activation == "sigmoid" or (compiled == "binary" and activation != "softmax")
    if softmax and independent:
        raise ValueError(
            f"{where} is a binary classifier for each unit, but `{type(term.loss).__name__}` "
            "compares distributions over all units. Give `BinaryKLDivergence`."
        )
    if softmax and compiled == "regression" and activation == "linear":
        raise ValueError(
            f"{where} is a regression according to the compiled loss, but "
            f"`{type(term.loss).__name__}` compares distributions over classes, which ignore a "
            'shift of all values. Give a loss on values such as `Term("mse")`.'
        )
    if sigmoid and activation == "softmax":
        raise ValueError(
            f"{where} ends in a softmax over classes, but `BinaryKLDivergence` compares each class "
            "alone. Give `KLDivergence`."
        )


def _says_logits(loss, path):
    """Returns whether the compiled loss of an output says that this gives logits."""
    loss = loss_of(loss, path)
    of_output = isinstance(path, str) and path.partition(":")[0] == "output"
    return of_output and not tree.is_nested(loss) and argument_of(loss, "from_logits", False)


def _check_probabilities(term, side, path, value, sigmoid):
    """Raises an error for probabilities where a loss would apply softmax or sigmoid again.

    Args:
        term: the term.
        side: `"student"` or `"teacher"`.
        path: the path of the value.
        value: what the term compares, of one batch.
        sigmoid: whether the loss would apply a sigmoid, and nobody says that these are logits.
    """
    where = f"`{term.name}`: the {side}'s `{path}`"
    if are_probabilities(value):
        raise ValueError(
            f"{where} gives probabilities, but the loss takes logits. On the first batch the "
            "values are non-negative and sum to one. Remove the softmax from the model, or take "
            "the logarithm of its output."
        )
    if sigmoid and _between_0_and_1(value) and _numbers(value).max() >= LARGE:
        raise ValueError(
            f"{where} gives probabilities, but the loss takes logits. On the first batch all "
            "values lie in [0, 1]. Remove the sigmoid from the model, or take `log(p / (1 - p))` "
            "of its output."
        )


def _check_cross_entropy(term, features, targets):
    """Raises an error if one of Keras's cross-entropies compares values that it does not take."""
    loss = term.loss.loss
    kind = loss if inspect.isfunction(loss) else type(loss)
    name = kind.__name__.lower().replace("_", "")
    if not kind.__module__.startswith("keras.") or "crossentropy" not in name:
        return  # a cross-entropy of the user's own may take logits on both sides
    if not isinstance(term.student, str) or not isinstance(term.teacher, str):
        return
    y_pred, y_true, binary = features[term.student], targets[term.teacher], "binary" in name
    inside = _between_0_and_1(y_true, least=1) if binary else are_probabilities(y_true)
    if "sparse" not in name and not inside:
        fits = "BinaryKLDivergence" if binary else "SoftCrossEntropy"
        raise ValueError(
            f"`{term.name}` takes probabilities from the teacher, but `{term.teacher}` of "
            f"`{term.source}` gives logits. Give `losses.{fits}`, which takes the logits of both."
        )
    from_logits = argument_of(loss, "from_logits", False)
    known = logits_of(y_pred) is not None
    if term.projector is None and from_logits == (known or are_probabilities(y_pred)):
        raise ValueError(
            f"`{term.name}` needs `from_logits={not from_logits}`, because the student's "
            f"`{term.student}` gives {'probabilities' if from_logits else 'logits'}. Received: "
            f"from_logits={from_logits}"
        )


def _inner(loss):
    """Returns the inner loss of a loss that only changes the logits."""
    while isinstance(loss, (ClassSubset, Standardized)):
        loss = loss.loss
    return loss


def activation_of(value):
    """Returns `"softmax"`, `"sigmoid"` or `"linear"`, by the logits that Keras remembers."""
    logits = logits_of(value)
    if logits is None:
        return "linear"
    given, known = _numbers(value), _numbers(logits)
    known = known[np.isfinite(given)]
    sigmoid = 1 / (1 + np.exp(-np.clip(known, -80, 80)))
    return (
        "sigmoid" if np.allclose(sigmoid, given[np.isfinite(given)], atol=TOLERANCE) else "softmax"
    )


def _between_0_and_1(value, least=ENOUGH):
    value = _numbers(value)
    return value.size >= least and bool(((value >= 0) & (value <= 1)).all())


def _numbers(value):
    return ops.convert_to_numpy(ops.cast(value, "float32"))


def kind_of_loss(loss, path="output"):
    """Returns `"binary"`, `"regression"` or `None`: the kind of an output's units by its loss.

    Args:
        loss: the loss that `compile` got.
        path: the path of the output.
    """
    loss = loss_of(loss, path)
    if loss is None or isinstance(loss, (dict, list, tuple)):
        return None
    for kind, names in (("binary", BINARY), ("regression", REGRESSION)):
        classes = [getattr(keras.losses, name) for name in names]
        functions = [keras.losses.get(name).fn for name in names]
        if isinstance(loss, tuple(classes)) or loss in functions:
            return kind
    return None


def kind_of_labels(loss, labels, output):
    """Returns `"binary"`, `"regression"` or `None`, by the labels, for a user's own loss.

    Args:
        loss: the loss that `compile` received. The labels of a categorical loss are classes.
        labels: the labels of the first batch. If each unit has a label, they have the output's
            shape.
        output: the student's output for the first batch.
    """
    loss = loss_of(loss)
    name = getattr(loss, "__name__", type(loss).__name__).lower()
    if loss is None or tree.is_nested(loss) or "categorical" in name or not ops.is_tensor(labels):
        return None
    units = output.shape[-1]
    shapes = [tuple(output.shape), *([tuple(output.shape[:-1])] if units == 1 else [])]
    if tuple(labels.shape) not in shapes:
        return None
    values = _numbers(labels)
    values = np.reshape(values[np.isfinite(values)], -1)
    if not np.isin(values, (0, 1)).all():
        sums = _numbers(labels).sum(axis=-1)
        soft = units > 1 and values.min() >= 0 and np.allclose(sums, 1, atol=TOLERANCE)
        return None if soft else "regression"
    one_hot = units > 1 and (_numbers(labels).sum(axis=-1) == 1).all()
    return None if one_hot else "binary"


def loss_of(loss, path="output"):
    """Returns the compiled loss of one output, or the whole structure if it is not clear."""
    key = path.partition(":")[2] if isinstance(path, str) else ""
    if isinstance(loss, dict) and key in loss:
        loss = loss[key]
    elif isinstance(loss, (list, tuple)) and key.isdigit() and int(key) < len(loss):
        loss = loss[int(key)]
    elif isinstance(loss, dict) and len(loss) == 1:
        loss = next(iter(loss.values()))
    elif isinstance(loss, (list, tuple)) and len(loss) == 1:
        loss = loss[0]
    return keras.losses.get(loss) if isinstance(loss, str) else loss
