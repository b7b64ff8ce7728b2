"""Tasks that judge models: classes, several labels, numbers, or the next token.

A task turns a batch of outputs and targets into one row of sums for each example. Its measure is a
function of the total of such rows, so any resample of the examples has a value too.
"""

import keras
import numpy as np

from keras_distill.losses import answers

TINY = np.finfo("float32").tiny
TOGETHER = 64  # numbers per example; with more they are not measured one by one


class Classes:
    """One class for each example, or for each of its tokens or pixels.

    Args:
        outputs: a first batch of outputs, `(batch, ..., classes)` or `(batch, 1)` for two classes.
    """

    name, metric, heading, scale, lower = "classes", "accuracy", "accuracy %", 100, False

    def __init__(self, outputs):
        self.classes = max(outputs.shape[-1], 2)
        self.top = 5 if self.classes > 5 else min(self.classes - 1, 2)  # of two classes the first

    def answers(self, outputs, probable=None):
        """Returns log-probabilities of logits or probabilities, `(batch, ..., classes)`.

        `probable` says whether a model's outputs are probabilities, if it is known.
        """
        if outputs.shape[-1] == 1:
            outputs = two_classes(outputs, probable)
        elif seem_probable(outputs) if probable is None else probable:
            outputs = np.log(np.maximum(outputs, TINY))
        shifted = outputs - outputs.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))

    def labels(self, y, found):
        """Returns integer classes, `(batch, ...)`.

        Raises:
            ValueError: if they are no classes of the outputs.
        """
        if y.ndim not in (found.ndim, found.ndim - 1):
            raise ValueError(
                f"Labels must be classes for outputs of shape {found.shape}. Received: {y.shape}"
            )
        if y.shape[-1:] == (1,) and y.ndim == found.ndim:
            y = y[..., 0]
        if y.ndim == found.ndim:
            y = y.argmax(-1)
        if y.shape != found.shape[:-1]:
            raise ValueError(
                f"Labels must be classes for outputs of shape {found.shape}. Received: {y.shape}"
            )
        return y.astype("int64")

    def sums(self, found, y, weights):
        """Returns `(batch, 3)`: weighted right answers, their negative log-likelihood, weights."""
        y = self.labels(y, found)
        self._check(y, weights)
        y = np.where(weights > 0, y, 0)
        right = (found.argmax(-1) == y) & ~np.isnan(found).any(-1)  # no answer is a wrong answer
        nll = -np.take_along_axis(found, y[..., None], -1)[..., 0]
        return _per_example(right * weights, nll * weights, weights)

    def _check(self, y, weights):
        y = y[weights > 0]
        if y.size and not 0 <= y.min() <= y.max() < self.classes:
            raise ValueError(
                f"Labels must be one-hot, or integers in [0, {self.classes}). Received: from "
                f"{y.min()} to {y.max()}"
            )

    def value(self, totals):
        return totals[..., 0] / totals[..., 2]

    def score(self, sums):
        """Returns the quality of the answer to each example; larger is better."""
        return sums[:, 0] / np.maximum(sums[:, 2], TINY)

    def measures(self, totals):
        """Returns all measures of a total of sums."""
        right, nll, count = totals
        return {"accuracy": right / count, "nll": nll / count}

    def likeness(self, found, teacher, weights):
        """Returns `(batch, 4)`: agreement, share of common likeliest classes, KL, weights."""
        same = found.argmax(-1) == teacher.argmax(-1)
        ours, theirs = (_top(each, self.top) for each in (found, teacher))
        shared = (ours[..., :, None] == theirs[..., None, :]).any(-1).mean(-1)
        kl = keras.ops.convert_to_numpy(answers.divergence(teacher, found))
        return _per_example(same * weights, shared * weights, kl * weights, weights)

    def likenesses(self, totals):
        """Returns the measures of a total of `likeness`."""
        names = ("agreement", f"top_{self.top}_agreement", "kl_to_teacher")
        found = dict(zip(names, (totals[:-1] / totals[-1]).tolist(), strict=True))
        if self.top == 1:  # which is the agreement
            del found["top_1_agreement"]
        return found

    def rows(self, found, y, weights):
        """Returns `(confidence, right, label)` of each answer that counts."""
        y = self.labels(y, found).ravel()
        counted = (weights.ravel() > 0) & ~np.isnan(found).any(-1).ravel()
        sure, best = np.exp(found.max(-1)).ravel(), found.argmax(-1).ravel()
        return sure[counted], (best == y)[counted], y[counted]


class NextToken(Classes):
    """The next token of a text, judged by perplexity."""

    name, metric, heading, scale, lower = "language", "perplexity", "perplexity", 1, True

    def value(self, totals):
        return np.exp(totals[..., 1] / totals[..., 2])

    def score(self, sums):
        return -sums[:, 1] / np.maximum(sums[:, 2], TINY)

    def measures(self, totals):
        found = super().measures(totals)
        return {"perplexity": float(np.exp(found["nll"])), **found}


class Labels:
    """Any number of labels for each example, judged by micro-averaged F1.

    `F1 = 2 tp / (2 tp + fp + fn)`. A label is given if its probability is at least one half.

    Args:
        outputs: a first batch of outputs, `(batch, labels)`: logits or probabilities.
    """

    name, metric, heading, scale, lower = "labels", "f1", "F1 %", 100, False

    def __init__(self, outputs):
        self.classes = outputs.shape[-1]

    def answers(self, outputs, probable=None):
        """Returns probabilities, `(batch, labels)`, of either kind of outputs."""
        probable = lies_inside(outputs) if probable is None else probable
        return outputs if probable else 1 / (1 + np.exp(-np.clip(outputs, -500, 500)))

    def sums(self, found, y, weights):
        """Returns `(batch, 5)`: true positives, false ones, misses, right answers, all answers."""
        if y.shape != found.shape:
            raise ValueError(
                f"Labels must have the outputs' shape, {found.shape}. Received: {y.shape}"
            )
        given, true, w = found >= 0.5, y > 0.5, np.broadcast_to(weights[:, None], y.shape)
        parts = (given & true, given & ~true, ~given & true, given == true, np.ones_like(w))
        return _per_example(*(part * w for part in parts))

    def value(self, totals):
        hits, wrong, missed = (totals[..., i] for i in range(3))
        return 2 * hits / np.maximum(2 * hits + wrong + missed, TINY)

    def score(self, sums):
        return sums[:, 3]

    def measures(self, totals):
        return {"f1": float(self.value(totals)), "label_accuracy": totals[3] / totals[4]}

    def likeness(self, found, teacher, weights):
        """Returns `(batch, 3)`: equal answers, divergence of probabilities, all answers."""
        w = np.broadcast_to(weights[:, None], found.shape)
        p, q = (np.clip(each, 1e-7, 1 - 1e-7) for each in (teacher, found))
        kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        same = (found >= 0.5) == (teacher >= 0.5)
        return _per_example(same * w, kl * w, w)

    def likenesses(self, totals):
        return {"agreement": totals[0] / totals[2], "kl_to_teacher": totals[1] / totals[2]}

    def rows(self, found, y, weights):
        """Returns `(confidence, right, label)` of each label of each example."""
        given = found >= 0.5
        sure, right = np.where(given, found, 1 - found), given == (y > 0.5)
        label = np.broadcast_to(np.arange(found.shape[-1]), found.shape)
        counted = np.broadcast_to(weights[:, None] > 0, found.shape)
        return sure[counted], right[counted], label[counted]


class Numbers:
    """Numbers, judged by R squared, the mean over an example's numbers.

    `R2 = 1 - sum (y - f)^2 / sum (y - mean y)^2`.

    Args:
        outputs: a first batch of outputs, `(batch, ...)`.
    """

    name, metric, heading, scale, lower = "numbers", "r2", "R²", 1, False

    def __init__(self, outputs):
        self.width = int(np.prod(outputs.shape[1:]))

    def answers(self, outputs, probable=None):
        """Returns the numbers, `(batch, numbers)`."""
        return outputs.reshape(len(outputs), -1)

    def sums(self, found, y, weights):
        """Returns the sums: squared errors, numbers, their squares; absolute error; counts."""
        y, w = y.reshape(len(y), -1).astype("float64"), weights.reshape(-1, 1)
        if y.shape != found.shape:
            raise ValueError(
                f"Targets must have the outputs' shape, {found.shape}. Received: {y.shape}"
            )
        wide = self.width > TOGETHER
        each = [part.mean(-1, keepdims=True) if wide else part
                for part in ((y - found) ** 2, y, y**2)]  # fmt: skip
        return np.concatenate([*each, np.abs(y - found).mean(-1, keepdims=True), w**0], -1) * w

    def value(self, totals):
        width = (totals.shape[-1] - 2) // 3
        error, total, squares = (totals[..., i * width : (i + 1) * width] for i in range(3))
        spread = squares - total**2 / totals[..., -1:]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(spread > 0, 1 - error / spread, np.nan).mean(-1)

    def score(self, sums):
        return -sums[:, -2]

    def measures(self, totals):
        width = (len(totals) - 2) // 3
        root = float(np.sqrt(totals[:width].sum() / width / totals[-1]))
        error = totals[-2] / totals[-1]
        return {"r2": float(self.value(totals)), "mean_absolute_error": error,
                "root_mean_square_error": root}  # fmt: skip

    def likeness(self, found, teacher, weights):
        """Returns `(batch, 2)`: the mean distance to the teacher's numbers, the weights."""
        return _per_example(np.abs(found - teacher).mean(-1) * weights, weights)

    def likenesses(self, totals):
        return {"distance_to_teacher": totals[0] / totals[1]}

    def rows(self, found, y, weights):
        """Returns `None`: numbers have no confidence."""
        return None


TASKS = {task.name: task for task in (Classes, NextToken, Labels, Numbers)}


def task_of(outputs, y, x, name=None):
    """Returns the task that fits a first batch of outputs and targets.

    Integers are classes, also as floats, and so is one output with zeros and ones as targets. Rows
    of zeros and ones are classes if exactly one entry is set in each, and labels otherwise.
    Integers for each token are language if they are the inputs, shifted by one. All others are
    numbers.

    Args:
        outputs: an array `(batch, ...)`.
        y: the targets, an array.
        x: the inputs, or a dict of them.
        name: `"classes"`, `"labels"`, `"numbers"`, `"language"` or `"summaries"`, if it is known.
            Defaults to `None`.

    Raises:
        ValueError: if there is no such task.
    """
    if name is not None and name not in TASKS:
        raise ValueError(f"`task` must be one of {', '.join(TASKS)}. Received: task={name!r}")
    if name is not None:
        return TASKS[name](outputs)
    two = np.isin(y, (0, 1)).all()
    if y.shape == outputs.shape and outputs.ndim == 2 and two and outputs.shape[-1] > 1:
        return (Classes if (y.sum(-1) == 1).all() else Labels)(outputs)
    if outputs.ndim == 2 and outputs.shape[-1] == 1:
        return (Classes if two else Numbers)(outputs)
    whole = y.dtype.kind in "iub" or (
        (y.ndim < outputs.ndim or outputs.shape[-1] > 1) and (y == np.round(y)).all()
    )
    columns = y.shape[:-1] if y.ndim == outputs.ndim and y.shape[-1] == 1 else y.shape
    if outputs.ndim > 1 and whole and columns == outputs.shape[:-1]:
        return (NextToken if _shifted(x, y) else Classes)(outputs)
    if outputs.ndim > 2 and y.shape == outputs.shape and two and (y.sum(-1) == 1).all():
        return Classes(outputs)
    return Numbers(outputs)


def _shifted(x, y):
    """Returns whether the labels are the inputs' next tokens."""
    return any(
        x.dtype.kind in "iu" and x.shape == y.shape and x.ndim == 2 and x.shape[-1] > 1
        and (x[:, 1:] == y[:, :-1]).mean() > 0.5
        for x in map(np.asarray, keras.tree.flatten(x))
    )  # fmt: skip


def lies_inside(outputs):
    """Returns whether all values lie in [0, 1], as probabilities do and few logits."""
    return bool(outputs.size and ((outputs >= 0) & (outputs <= 1) | np.isnan(outputs)).all())


def seem_probable(outputs, alone=False):
    """Returns whether some outputs can be probabilities, or `None` if all of them hold NaN.

    Args:
        outputs: an array `(batch, ...)`. Rows with NaN tell nothing, also not of the other rows.
        alone: whether each number is a probability of its own, so rows need not sum to one.
    """
    known = outputs[~(np.isnan(outputs) if alone else np.isnan(outputs).any(-1))]
    if not known.size:
        return None
    return lies_inside(known) if alone else answers.are_probabilities(known)


def two_classes(outputs, probable=None):
    """Returns the logits of no and yes, `(..., 2)`, for one unit `(..., 1)` of any kind."""
    if lies_inside(outputs) if probable is None else probable:
        outputs = np.log(np.maximum(outputs, TINY)) - np.log(np.maximum(1 - outputs, TINY))
    return np.concatenate([np.zeros_like(outputs), outputs], -1)


def _per_example(*columns):
    return np.stack([np.asarray(c, "float64").reshape(len(c), -1).sum(-1) for c in columns], -1)


def _top(values, count):
    return np.argpartition(-values, count - 1, axis=-1)[..., :count]
