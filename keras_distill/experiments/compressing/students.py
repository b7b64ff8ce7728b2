"""Proposes students: cut from the teacher, or of the sizes that the experiment offers."""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

from keras_distill import models
from keras_distill.models.shrinking.vocabulary import size_of
from keras_distill.report import latency, operations_of, size_on_disk

DEPTHS = (3 / 4, 1 / 2, 1 / 3, 1 / 4, 1 / 6)
WIDTHS = {1.0: "", 0.5: "half as wide", 0.25: "a quarter as wide"}
SIZES = (1.0, 0.7, 0.5, 0.35, 0.25)
OWN = "the experiment's student"


class Proposal(NamedTuple):
    """A student that may be trained.

    Args:
        name: its name in tables, such as `"3 of 12 blocks"`.
        make: a function without arguments that makes it.
        cut: whether it starts with weights of the teacher.
    """

    name: str
    make: Callable
    cut: bool = False


def rehearse_sizes(experiment, sizes):
    """Makes the experiment's student of each size, so that errors are raised before any training.

    Raises:
        ValueError: if a student cannot be made.
    """
    for size in sizes if _takes_size(experiment) else ():
        try:
            experiment.built_student(size=size)
        except Exception as error:  # of the experiment's own code
            raise ValueError(
                f"The experiment's `student(size={size!r})` cannot be made. Give `sizes` that it "
                f"takes. Its error: {error}"
            ) from error


def proposals(experiment, teacher, sizes=SIZES):
    """Returns the students of a teacher, largest first.

    If `models.shrink` can cut the teacher, it proposes several depths, each at the whole and at
    half the width. For a teacher without blocks it proposes half and a quarter of the width. A cut
    in width keeps the units that are most important on the training split. If a teacher reads token
    ids, and the training split has at most three quarters of them, each whole width is also
    proposed with only these tokens; the student reads the same ids. If the experiment's
    `student` takes a `size`, it also proposes one student for each of `sizes`. If it takes none, it
    proposes this one student.

    Args:
        experiment: an `Experiment`.
        teacher: the trained teacher, a `keras.Model`.
        sizes: positive numbers for `student(size=...)`. Defaults to `1, 0.7, 0.5, 0.35, 0.25`.

    Returns:
        A list of `Proposal`s of different sizes, the largest first.
    """
    own = [Proposal(OWN, experiment.built_student)]
    if _takes_size(experiment):
        own = [Proposal(f"size {size:g}", functools.partial(experiment.built_student, size=size))
               for size in sizes]  # fmt: skip
    found = [*_cut(teacher, experiment), *own]
    counted = {each.name: each.make().count_params() for each in found}
    return sorted(found, key=lambda each: (-counted[each.name], each.name))


def _takes_size(experiment):
    return "size" in inspect.signature(experiment.student).parameters


def _cut(teacher, experiment):
    """Returns the students that `shrink` can cut from a teacher."""
    count, found = models.depth_of(teacher), []
    depths = sorted({1, *(round(count * share) for share in DEPTHS)} - {0, count}, reverse=True)
    depths, widths = ([count, *depths], [1.0, 0.5]) if count > 1 else ([None], WIDTHS)
    kept, of_tokens = _fewer_tokens(teacher, experiment.data("train"))
    for depth in depths:
        for width in widths:
            asked = {} if depth in (None, count) else {"depth": depth}
            asked |= {} if width == 1 else {"width": width}
            blocks = "" if depth is None else f"{depth} of {count} blocks"
            cuts = [(asked, (blocks, WIDTHS[width]))]
            cuts += [({**asked, **kept}, (blocks, of_tokens))] if kept and width == 1 else []
            for asked, words in cuts:
                made = _made(teacher, asked, experiment) if asked else None
                name = ", ".join(filter(None, words))
                found += [] if made is None else [Proposal(name, made, cut=True)]
    return found


def _fewer_tokens(teacher, data):
    """Returns the arguments of `shrink` that keep the tokens of the data, and what they are called.

    Both are empty for a teacher that reads no token ids, and for data with most of its tokens.
    """
    try:
        size, kept = size_of(teacher), models.seen_tokens(teacher, data)
    except (NotImplementedError, ValueError):
        return {}, ""
    if len(kept) > 3 / 4 * size:
        return {}, ""
    return {"vocabulary": kept, "same_ids": True}, f"{len(kept):,} of {size:,} tokens"


def _made(teacher, asked, experiment):
    """Returns a function that makes a cut student, with the same weights each time, or `None`.

    A cut in width keeps the first units if they cannot be measured, as in a teacher with layers of
    unknown kind.
    """
    ways = [{}]
    if "width" in asked:
        data = experiment.data("train")
        ways.insert(0, {"importance": data, "measure": "taylor", "loss": experiment.loss})
    for way in ways:
        try:
            weights = models.shrink(teacher, **asked, **way).get_weights()
        except (TypeError, ValueError):
            continue
        return functools.partial(_with_weights, teacher, asked, weights)
    return None


def _with_weights(teacher, asked, weights):
    student = models.shrink(teacher, **asked)
    student.set_weights(weights)
    return student


def measured(students, example):
    """Measures the cost of each student before any training.

    Args:
        students: a list of `Proposal`s.
        example: an input with a batch axis.

    Returns:
        `{name: {"ms", "mb", "flops", "parameters"}}`: the median milliseconds of a prediction at
        batch 1, the megabytes of the `.keras` file, operations of matrix products, and weights.
        The operations are `None` for a student of strings.
    """
    made = {each.name: each.make() for each in students}
    times = latency(made, example)
    return {name: {"ms": times[name]["median_ms"], "mb": size_on_disk(model) / 1e6,
                   "flops": operations_of(model, example), "parameters": model.count_params()}
            for name, model in made.items()}  # fmt: skip


def within(costs, budget):
    """Returns the names of the students within a budget.

    Args:
        costs: the result of `measured`.
        budget: `{"ms" | "mb" | "flops": the maximum}`. `None` is no limit.

    Raises:
        ValueError: if no student is left, or the operations of one are limited but not known.
    """
    limits = {name: most for name, most in budget.items() if most is not None}
    unknown = [name for name, cost in costs.items() if "flops" in limits and cost["flops"] is None]
    if unknown:
        raise ValueError(
            "The operations of a student can only be counted for numbers of known shapes. Limit "
            f"its milliseconds or its size instead. Received: {limits}, for {unknown[0]}"
        )
    kept = [name for name, cost in costs.items()
            if all(cost[limit] <= most for limit, most in limits.items())]  # fmt: skip
    if not kept:
        least = {limit: min(cost[limit] for cost in costs.values()) for limit in limits}
        raise ValueError(
            "No student is within the budget. Raise the budget, or let the experiment make smaller "
            f"students with `student(size=...)`. The smallest costs are {least}. Received: {limits}"
        )
    return kept
