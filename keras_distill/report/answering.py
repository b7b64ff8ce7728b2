"""Runs models over data once, and keeps the parts of each answer that measures need."""

import dataclasses

import keras
import numpy as np

from keras_distill import _backend
from keras_distill.report import tasks, texts

ENOUGH = 100  # rows that tell probabilities from logits that sum to one by chance


@dataclasses.dataclass
class Answers:
    """The results for one output of one model, example by example.

    Args:
        sums: an array `(examples, k)` of the task's sums.
        likeness: the task's sums of the comparison with the teacher, or `None` without a teacher.
        rows: `(confidence, right, label)` of each answer, or `None` for numbers.
        first: the task's answers to the first examples, if whole examples have classes, else
            `None`.
    """

    sums: np.ndarray
    likeness: np.ndarray | None
    rows: tuple | None
    first: np.ndarray | None


class Kinds(dict):
    """Whether each output of each model holds probabilities, by `(model, head)`.

    The logits of a batch may look like probabilities by chance, so a batch is judged only once the
    kinds of its outputs are known. One batch of logits shows them. `ENOUGH` rows of classes that
    all sum to one show probabilities. One unit, or labels, must lie in [0, 1] in all batches.
    """

    def __init__(self, known):
        super().__init__(known)
        self._rows = {}

    def settle(self, task, outputs):
        """Learns from one batch. Returns whether the kinds of all its outputs are known."""
        if not isinstance(task, (tasks.Classes, tasks.Labels)):
            return True
        for key, each in outputs.items():
            alone = isinstance(task, tasks.Labels) or each.shape[-1:] == (1,)
            probable = None if key in self else tasks.seem_probable(each, alone)
            if probable is None:
                continue
            self._rows[key] = self._rows.get(key, 0) + each.size // each.shape[-1]
            if not probable or (not alone and self._rows[key] >= ENOUGH):
                self[key] = probable
        return all(key in self for key in outputs)

    def close(self):
        """Takes outputs for probabilities that no batch has shown to be logits."""
        for key in self._rows:
            self.setdefault(key, True)


@dataclasses.dataclass
class Found:
    """All answers, and the first examples with their inputs.

    Args:
        task: the task that judges the answers.
        answers: `{(model, head): Answers}`. The head is empty for a model with one output.
        batches: the first batches, `(x, y, weights)` of arrays.
        examples: the number of examples.
        kinds: the `Kinds` of the outputs.
    """

    task: object
    answers: dict
    batches: list
    examples: int
    kinds: Kinds


def answered(models, data, teacher=None, task=None, keep=1000, kinds=None):
    """Returns the answers of all models to the same batches.

    Args:
        models: a dict of models, or functions of `x`, by name.
        data: batches of `(x, y)` or `(x, y, weights)`.
        teacher: the name of the model with which the others are compared, or `None`.
        task: the name of a task, or a task. By default the first batch shows it.
        keep: how many examples, with their answers, to keep. Defaults to `1000`. Texts may be
            padded to the longest of their batch. Batches of another length than the first are not
            kept.
        kinds: `{(model, head): whether it holds probabilities}`, where more data than these have
            shown it. Defaults to `None`.

    Returns:
        A `Found`.

    Raises:
        ValueError: if there are no data, or outputs and labels do not fit each other.
    """
    kept, held, waiting, parts, examples = [], 0, [], {}, 0
    kinds = Kinds(kinds or {})
    names = [teacher] if teacher is not None else []
    names += [name for name in models if name != teacher]
    for batch in data:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
        if y is None:
            raise ValueError("`data` must hold labels, in batches of (x, y). Received: x alone")
        x, y = (keras.tree.map_structure(np.asarray, each) for each in (x, y))
        weights = None if weights is None else np.asarray(weights)
        outputs = {}
        for name in names:
            written = getattr(task, "name", task) == texts.Texts.name
            for head, found in (texts.texts_of if written else heads_of)(models[name], x).items():
                outputs[name, head] = found
            if task is None or isinstance(task, str):
                task = _first_task(_of(name, outputs), y, x, task)
        size = len(keras.tree.flatten(x)[0])
        left = max(keep - held, 0) if not kept or _alike(x, kept[0][0]) else 0
        waiting.append((outputs, y, weights, left))
        if kinds.settle(task, outputs):
            _judge(task, waiting, teacher, kinds, parts)
            waiting = []
        if left:
            kept.append((x, y, weights))
            held += size
        examples += size
    kinds.close()
    _judge(task, waiting, teacher, kinds, parts)
    if not parts:
        raise ValueError("`data` must hold at least one batch. "
                         f"Received: {examples} examples")  # fmt: skip
    return Found(task, {key: _joined(each) for key, each in parts.items()}, kept, examples,
                 kinds)  # fmt: skip


def _alike(x, other):
    """Returns whether two batches of inputs can be one."""
    pairs = zip(keras.tree.flatten(x), keras.tree.flatten(other))
    return all(one.shape[1:] == another.shape[1:] for one, another in pairs)


def _of(name, outputs):
    """Returns `{head: outputs}` of one model."""
    return {head: each for (model, head), each in outputs.items() if model == name}


def _judge(task, batches, teacher, kinds, parts):
    """Adds what a task finds in the answers to batches to `parts`, `{(model, head): [part]}`.

    Args:
        task: the task.
        batches: `({(model, head): outputs}, y, weights, examples to keep)` of each, the teacher's
            outputs first.
        teacher: the name of the model with which the others are compared, or `None`.
        kinds: the `Kinds` of the outputs.
        parts: the parts of the batches before.
    """
    for all_outputs, y, weights, keep in batches:
        theirs = {}
        for (name, head), outputs in all_outputs.items():
            true = y[head] if isinstance(y, dict) and head in y else y
            probable = kinds.get((name, head))
            if isinstance(true, dict) or (head and not _fits(task, outputs, true, probable)):
                continue  # an output beside the answers
            of = theirs.get(head, next(reversed(theirs.values()), None))
            found = task.answers(outputs, probable)
            part = _judged(task, found, true, weights, of, keep)
            if name == teacher:
                theirs[head] = found
            parts.setdefault((name, head), []).append(part)


def heads_of(model, x):
    """Returns the outputs of a model as arrays by name; one output has the empty name."""
    if _backend.NAME == "tensorflow" and any(
        np.asarray(each).dtype.kind in "OSU" for each in keras.tree.flatten(x)
    ):
        x = keras.tree.map_structure(_backend.tensorflow("Text").convert_to_tensor, x)
    outputs = model.predict_on_batch(x) if isinstance(model, keras.Model) else model(x)
    if isinstance(outputs, (list, tuple)):
        outputs = {str(i + 1): each for i, each in enumerate(outputs)}
    outputs = outputs if isinstance(outputs, dict) else {"": outputs}
    arrays = {name: keras.ops.convert_to_numpy(each) for name, each in outputs.items()}
    return {name: array.astype("float64") for name, array in arrays.items()}


def _first_task(heads, y, x, name):
    head, outputs = next(reversed(heads.items()))
    y = y[head] if isinstance(y, dict) and head in y else y
    if isinstance(y, dict):
        raise ValueError(f"`data` must hold one target, or one for each output of {list(heads)}. "
                         f"Received: {list(y)}")  # fmt: skip
    return tasks.task_of(outputs, y, x, name)


def _fits(task, outputs, y, probable):
    try:
        found = task.answers(outputs, probable)
        if isinstance(task, tasks.Classes) and found.shape[-1] != task.classes:
            return False
        task.sums(found, y, np.ones(_counted(task, found)))
    except (ValueError, IndexError):
        return False
    return True


def _counted(task, found):
    """Returns the shape of the weights: one per token, or one per example."""
    return found.shape[:-1] if isinstance(task, tasks.Classes) else found.shape[:1]


def _judged(task, found, y, weights, teacher, keep):
    shape = _counted(task, found)
    weights = np.ones(len(found)) if weights is None else np.asarray(weights, "float64")
    if weights.ndim > len(shape):
        weights = weights[..., 0]
    weights = weights.reshape(weights.shape + (1,) * (len(shape) - weights.ndim))
    weights = np.broadcast_to(weights, shape)
    fits = teacher is not None and teacher.shape == found.shape
    likeness = task.likeness(found, teacher, weights) if fits else None
    shown = found[:keep] if isinstance(task, tasks.Classes) and found.ndim == 2 else None
    return task.sums(found, y, weights), likeness, task.rows(found, y, weights), shown


def _joined(parts):
    sums, likeness, rows, first = zip(*parts)
    return Answers(
        np.concatenate(sums),
        None if any(each is None for each in likeness) else np.concatenate(likeness),
        None if rows[0] is None else tuple(map(np.concatenate, zip(*rows))),
        np.concatenate(first) if first[0] is not None else None,
    )
