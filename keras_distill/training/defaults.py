"""The terms of a distiller that got none: one for each teacher and each output of the student."""

from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import tree

from keras_distill._keras import graph, trainer
from keras_distill._messages import say
from keras_distill.losses import BinaryKLDivergence, KLDivergence
from keras_distill.taps.paths import parts_of
from keras_distill.training import heads
from keras_distill.training.outputs import by_output
from keras_distill.training.term import Term


def softened():
    return KLDivergence(temperature=2.0)


def softened_answers():
    return BinaryKLDivergence(temperature=2.0)


class Head(NamedTuple):
    """An output of the student that default terms compare with the same output of the teachers.

    Args:
        path: the path of the output.
        loss: a function without arguments that makes the loss.
        weight: the weight of the output, shared by the teachers.
        name: the end of the terms' names; empty for the only output.
    """

    path: str = "output"
    loss: Callable = softened
    weight: float = 1.0
    name: str = ""


ONLY = Head()


def made(teachers, chosen=(ONLY,)):
    """Returns a term for each teacher and output. The teachers have equal shares.

    Args:
        teachers: `{name: Teacher}`.
        chosen: a `Head` for each output.
    """
    sources = [name for name in teachers if name != "self"]
    terms = []
    for head in chosen:
        for source in sources:
            term = Term(head.loss(), student=head.path, teacher=_same(teachers[source], head.path),
                        source=source, weight=head.weight / len(sources))  # fmt: skip
            ends = (head.name, source if len(sources) > 1 else "")
            term.name = "_".join(filter(None, (term.name, *ends)))
            terms.append(term)
    return terms


def _same(teacher, path):
    """Returns the teacher's path for an output of the student: its only output, if there is one."""
    models = teacher.models()
    if models and all(graph.is_graph(model) for model in models):
        return path if any(tree.is_nested(graph.outputs(model)) for model in models) else "output"
    return path


def follow(objective, output, labels):
    """Makes the default terms of an objective anew, by what is known with the first batch.

    Args:
        objective: the `Objective`.
        output: the student's output.
        labels: the labels, by output.

    Returns:
        Whether the terms read other paths than before.
    """
    before = objective.defaults
    if not before or any(term not in objective.terms for term in before):
        return False  # the user gave terms, or detached some
    chosen = chosen_for(objective, output, labels)
    terms = made(objective.teachers, chosen)
    if [(term.name, term.weight) for term in terms] == [(t.name, t.weight) for t in before]:
        return False
    objective.detach(*before)
    try:
        objective.attach(*terms)
    except ValueError:
        objective.attach(*before)
        raise
    objective.defaults = terms
    announce(chosen)
    return {term.student for term in terms} != {term.student for term in before}


def chosen_for(objective, output, labels):
    """Returns a `Head` for each output of the student that default terms compare.

    A single output is compared. Of several outputs those with a compiled loss are compared, each
    with its loss's weight.

    Args:
        objective: the `Objective`.
        output: the student's output for the first batch.
        labels: the labels of the first batch, by output.
    """
    if not tree.is_nested(output):
        return [Head(loss=_fitting(objective.loss, "output", output, labels))]
    parts, chosen = parts_of(output), []
    if any(tree.is_nested(part) for part in parts.values()):
        return [ONLY]  # refused later, by name
    names = graph.output_names(objective.student)
    loss, weights = (
        by_output(each, names) for each in (objective.loss, trainer.loss_weights(objective.judged))
    )
    for key, part in parts.items():
        path = f"output:{key}"
        if len(parts) > 1 and not _counts(loss, key):
            continue
        answers = labels.get(key) if isinstance(labels, dict) else labels
        weight = weights.get(key, 1.0) if isinstance(weights, dict) else 1.0
        chosen.append(Head(path, _fitting(loss, path, part, answers), weight, _name(key, names)))
    return chosen or [ONLY]


def _counts(loss, key):
    """Returns whether the compiled losses judge an output."""
    return loss.get(key) is not None if isinstance(loss, dict) else loss is not None


def _name(key, names):
    """Returns the name that Keras's logs have for an output."""
    return names[int(key)] if key.isdigit() and int(key) < len(names) else key


def _fitting(loss, path, output, labels):
    """Returns the function that makes the loss for an output, by its head and compiled loss."""
    told = heads.kind_of_loss(loss, path)
    told = told or heads.kind_of_labels(heads.loss_of(loss, path), labels, output)
    activation = heads.activation_of(output)
    if activation == "softmax":
        return softened
    if activation == "sigmoid" or told == "binary":
        return softened_answers
    return keras.losses.MeanSquaredError if told == "regression" else softened


def announce(chosen):
    """Says which losses the default terms have, unless it is the divergence of one output."""
    if len(chosen) > 1:
        told = ", ".join(f"`{head.name}` by `{_named(head)}`" for head in chosen)
        say(
            f"The default terms compare the outputs {told}, which fit the student's heads and the "
            "compiled losses. Give `terms` to choose others."
        )
    elif chosen[0].loss is not softened:
        say(
            f"The default term compares outputs by `{_named(chosen[0])}`, which fits the student's "
            "head and the compiled loss. Give `terms` to choose another loss."
        )


def _named(head):
    return head.loss().name
