"""Compares students with each other and with their teacher, in quality, cost and knowledge."""

import platform
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

import keras_distill
from keras_distill import export
from keras_distill.export import given as exported_inputs
from keras_distill.report import exports, judgement, knowledge, robustness
from keras_distill.report.answering import Answers, answered
from keras_distill.report.comparison import Comparison
from keras_distill.report.costs import latency, operations_of, peak_memory, size_on_disk

TEACHER, ALONE = "teacher", "alone"
TEXTS = "summaries"
BATCHES = (1, 32)
SLOW = 3  # how often texts are written to time them


def compare(
    teacher: Any,
    students: dict[str, Any],
    data: Iterable,
    *,
    baseline: str | None = None,
    task: str | None = None,
    exported: Sequence | dict[str, Sequence] = (),
    classes: Sequence[str] | None = None,
    histories: dict[str, list[dict]] | None = None,
    provenance: dict | None = None,
    name: str = "comparison",
    runs: int = 50,
    examples: int = 1000,
    seed: int = 0,
    memory: bool = False,
) -> Comparison:
    """Compares students with their teacher in quality, cost and knowledge.

    *Quality* is the task's measure with a 95% interval over 1,000 resamples of the examples, the
    difference from the baseline with McNemar's exact test, agreement with the teacher and
    divergence from it, calibration, the accuracy of each class, and the loss through noise, shifts
    or missing words. *Cost* is parameters, operations, size, latency and, for exported models, peak
    memory. *Knowledge* is the similarity of layers (CKA), and the examples of which the teacher is
    least sure.

    A model with several outputs, such as exits, has a row for each output that fits the task.

    Args:
        teacher: A `keras.Model`, or a function of `x`. For summaries that is a model with
            `generate`, such as KerasHub's tasks, or a function from texts to a list of texts.
        students: A dict of models by name. A list of models stands for the seeds of one student.
        data: Batches of `(x, y)` or `(x, y, weights)`, which are read once. `y` holds classes
            (integers or one-hot), rows of labels, numbers, or the class of each token.
        baseline: The name of the student that the others are compared with. Defaults to "alone"
            if there is such a student.
        task: `"classes"`, `"labels"`, `"numbers"`, `"language"` or `"summaries"`. For summaries `y`
            holds texts, and ROUGE is measured. By default the task is inferred from the first
            batch, and is never `"summaries"`.
        exported: Paths of exported models (`export.write`), or a dict of such lists by the name of
            the exported student. A list belongs to the last student. If a student has several
            seeds, the exports must be those of the first.
        classes: The names of the classes. Defaults to their indices.
        histories: `{name: [History.history of each seed]}`. Defaults to none.
        provenance: A dict about where the models come from. JSON must be able to hold it.
        name: The title of the page.
        runs: How many predictions are timed, at least 1. Defaults to `50`.
        examples: How many of the first examples are used for exported models and for changed
            inputs. Defaults to `1000`.
        seed: The seed of the noise. Defaults to `0`.
        memory: Whether the peak memory of each Keras model is measured too, each in a fresh
            process. Defaults to `False`.

    Returns:
        A `Comparison`. Its `write` writes a page, Markdown and JSON.

    Raises:
        ValueError: If an argument or the data do not fit.
        RuntimeError: If an exported model could not be run.

    Example:

    ```python
    found = report.compare(teacher, {"distilled": student}, [(x, y)], runs=5)
    print(found.markdown())
    ```
    """
    students = _checked(students, baseline, exported, runs, examples)
    baseline = ALONE if baseline is None and ALONE in students else baseline
    exported = exported if isinstance(exported, dict) else {[*students][-1]: list(exported)}
    if task == TEXTS and any(exported.values()):
        raise ValueError("Exported models cannot write texts. Leave `exported` out for summaries.")
    for path in [path for paths in exported.values() for path in paths]:
        exports.format_of(path)
    models = {(TEACHER, 0): teacher}
    models |= {(n, i): each for n, seeds in students.items() for i, each in enumerate(seeds)}
    found = answered(models, data, (TEACHER, 0), task, examples)
    rows = _rows(found)
    inputs = _inputs(found)
    judged = _judged(found, rows, baseline)
    for row, worse in _robust(models, found, seed).items():
        judged[row]["robustness"] = worse
    one = {n: each for (n, i), each in models.items() if i == 0}
    costs = _costs(one, inputs, runs if found.task.name != TEXTS else min(runs, SLOW), memory)
    described = [_exported(path, of, students[of][0], found, runs, inputs)
                 for of, paths in exported.items() for path in paths]  # fmt: skip
    return Comparison({
        "name": name,
        "task": found.task.name,
        "measure": {"name": found.task.metric, "heading": found.task.heading,
                    "scale": found.task.scale, "lower": found.task.lower},
        "examples": found.examples,
        "examples_of_exports": len(keras.tree.flatten(inputs)[0]),
        "baseline": baseline,
        "classes": None if classes is None else [str(each) for each in classes],
        "rows": judged,
        "costs": costs,
        "exported": described,
        "knowledge": _knowledge(one, found, rows, inputs, baseline),
        "histories": histories or {},
        "provenance": {**(provenance or {}), "versions": _versions()},
    })  # fmt: skip


def _checked(students, baseline, exported, runs, examples):
    """Returns the students as lists of seeds."""
    if not isinstance(students, dict) or not students or TEACHER in students:
        raise ValueError(
            "`students` must be a dict that maps names to models. No name may be 'teacher'. "
            f"Received: {students if not isinstance(students, dict) else list(students)}"
        )
    if baseline is not None and baseline not in students:
        raise ValueError(f"`baseline` must name one of {', '.join(students)}. "
                         f"Received: baseline={baseline!r}")  # fmt: skip
    if isinstance(exported, dict) and not {*exported} <= {*students}:
        raise ValueError(f"The names in `exported` must be students ({', '.join(students)}). "
                         f"Received: {', '.join(exported)}")  # fmt: skip
    if runs < 1 or examples < 1:
        raise ValueError(
            f"`runs` and `examples` must be positive. Received: runs={runs}, examples={examples}"
        )
    return {n: list(s) if isinstance(s, (list, tuple)) else [s] for n, s in students.items()}


def title(name, head):
    """Returns the title of a row: the model, and the output if there are several."""
    return f"{name}, {head}" if head else name


def _rows(found):
    """Returns `{title: (model's name, head, Answers of each seed)}`."""
    rows = {}
    for ((name, _), head), each in found.answers.items():
        rows.setdefault(title(name, head), (name, head, []))[2].append(each)
    return rows


def _inputs(found):
    """Returns the inputs of the kept examples as one batch."""
    return keras.tree.map_structure(
        lambda *parts: np.concatenate(parts), *[x for x, _, _ in found.batches]
    )


def _judged(found, rows, baseline):
    resampled = {row: judgement.resampled(found.task, seeds) for row, (*_, seeds) in rows.items()}
    judged = {}
    for row, (name, head, seeds) in rows.items():
        each = judgement.quality(found.task, seeds, resampled[row])
        other = title(baseline, head) if title(baseline, head) in rows else baseline
        if baseline is not None and name not in (TEACHER, baseline) and other in rows:
            each["difference"] = judgement.difference(
                found.task, seeds, rows[other][2], resampled[row], resampled[other]
            )
        judged[row] = {"model": name, "output": head, **each}
    return judged


def _robust(models, found, seed):
    """Returns the measure on worse inputs by row, for the models of the first seed."""
    first = {key: model for key, model in models.items() if key[1] == 0}
    kinds = {"": lambda x, random: x, **robustness.changes(found.batches[0][0])}
    if len(kinds) == 1:
        return {}
    rows = {}
    for kind, change in kinds.items():
        random = np.random.default_rng(seed)
        worse = [(change(x, random), y, weights) for x, y, weights in found.batches]
        answers = answered(first, worse, task=found.task, kinds=found.kinds).answers
        for ((name, _), head), each in answers.items():
            value = float(found.task.value(each.sums.sum(0)))
            rows.setdefault(title(name, head), {})[kind or "as it is"] = value
    return rows


def _costs(models, inputs, runs, memory):
    models = {n: model for n, model in models.items() if isinstance(model, keras.Model)}
    if not models:
        return {}
    timed = {batch: latency(models, inputs, runs, min(runs, 10), batch) for batch in BATCHES}
    return {
        name: {
            "parameters": model.count_params(),
            "operations": operations_of(model, inputs),
            "size_bytes": size_on_disk(model),
            "latency": {str(batch): each[name] for batch, each in timed.items()},
            "peak_bytes": peak_memory(model, inputs) if memory else None,
        }
        for name, model in models.items()
    }


def _exported(path, of, student, found, runs, inputs):
    """Returns an exported model's costs and measures, and its agreement with the Keras model."""
    given = exported_inputs.checked_inputs("data", inputs, export.signature_of(student))
    costs, outputs = exports.measured(path, given, runs)
    models = {"exported": _in_turn(outputs), "student": student}
    kinds = {(name, head): kind for ((model, seed), head), kind in found.kinds.items()
             if (model, seed) == (of, 0) for name in models}  # fmt: skip
    both = answered(models, found.batches, "student", found.task, kinds=kinds).answers
    head, its = [(head, each) for (name, head), each in both.items() if name == "exported"][-1]
    seeds = [Answers(its.sums, None, None, None)]
    judged = judgement.quality(found.task, seeds, judgement.resampled(found.task, seeds))
    alike = {} if its.likeness is None else found.task.likenesses(its.likeness.sum(0))
    keep = ("value", "low", "high", "examples")
    student = float(found.task.value(both.get(("student", head), its).sums.sum(0)))
    return {"of": of, **costs, "quality": {key: judged[key] for key in keep}, "student": student,
            "to_the_student": alike}  # fmt: skip


def _in_turn(outputs):
    """Returns a function that returns the next rows of outputs, one for each input it gets."""
    end = 0

    def following(x):
        nonlocal end
        start, end = end, end + len(keras.tree.flatten(x)[0])
        rows = {name: each[start:end] for name, each in outputs.items()}
        return rows if len(rows) > 1 else next(iter(rows.values()))

    return following


def _knowledge(models, found, rows, inputs, baseline):
    teacher = models[TEACHER]
    kept = {}
    if isinstance(teacher, keras.Model):
        kept = {n: knowledge.alike_layers(model, teacher, inputs) for n, model in models.items()
                if n != TEACHER and isinstance(model, keras.Model)}  # fmt: skip
    log_probs = {name: seeds[0].first for row, (name, _, seeds) in rows.items()}
    log_probs = {name: each for name, each in log_probs.items() if each is not None}
    shown, theirs = [], log_probs.get(TEACHER)
    if theirs is not None:
        log_probs = {n: each for n, each in log_probs.items() if each.shape == theirs.shape}
        better = next((n for n in reversed(log_probs) if n not in (TEACHER, baseline)), None)
        y = np.concatenate([found.task.labels(_one(y), found.task.answers(np.zeros(
            (len(_one(y)), found.task.classes)))) for _, y, _ in found.batches])  # fmt: skip
        count = min(len(theirs), len(y))
        shown = knowledge.soft_targets(
            keras.tree.map_structure(lambda each: each[:count], inputs), y[:count],
            {n: each[:count] for n, each in log_probs.items()}, TEACHER,
            better if baseline in log_probs else None, baseline)  # fmt: skip
    return {"cka": {n: each for n, each in kept.items() if each}, "soft_targets": shown}


def _one(y):
    return next(reversed(y.values())) if isinstance(y, dict) else y


def _versions():
    return {"keras_distill": keras_distill.__version__, "keras": keras.__version__,
            "backend": keras.backend.backend(), "numpy": np.__version__,
            "python": platform.python_version(), "machine": platform.machine()}  # fmt: skip
