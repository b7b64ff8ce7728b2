"""Checks the arguments of `compile` and `fit`, completes them and passes them to the student."""

import contextlib
import functools
import inspect
import warnings

import keras
from keras import tree

from keras_distill import schedules
from keras_distill._keras import trainer
from keras_distill.batch import Supervision
from keras_distill.teachers import CachedTeacher
from keras_distill.text.pipeline import is_dataset
from keras_distill.training.outputs import metrics_for
from keras_distill.training.term import Term

JUDGED = ("loss", "metrics", "weighted_metrics")  # what a task's own `compile` would choose


def check_student(student):
    """Raises an error for a student that cannot be trained."""
    if not isinstance(student, keras.Model):
        raise TypeError(f"`student` must be a `keras.Model`. Received: student={student!r}")
    if isinstance(student, trainer.SharesCompiled):
        raise TypeError(
            "`student` must be the model itself and not a distiller around it. Give "
            f"`distiller.student`. Received: student={student!r}"
        )


def check_own_step(student):
    """Raises an error for a student with its own train step, to which terms cannot be added."""
    if trainer.overrides(student, "train_step"):
        raise ValueError(
            f"`{type(student).__name__}` has its own `train_step`, which a distiller cannot "
            "combine with a teacher. Move what it adds to the loss into `compute_loss`, and what "
            "it logs into `compute_metrics`. A distiller calls both."
        )


def check_strategies(student, teachers):
    """Raises an error if a teacher was made under another distribution strategy than the student.

    Args:
        student: the student.
        teachers: `{name: Teacher}`.
    """
    owner = trainer.strategy_of(student)
    models = [(name, model) for name, each in teachers.items() for model in each.models()]
    for name, model in models:
        if isinstance(model, keras.Model) and trainer.strategy_of(model) is not owner:
            raise ValueError(
                f"Make the student and its teacher `{name}` under the same `strategy.scope()`. "
                f"Received: {owner} and {trainer.strategy_of(model)}"
            )


def warn_of_shared(student, teachers):
    """Warns if a teacher shares weights with the student, since it changes as the student trains.

    Args:
        student: the student.
        teachers: `{name: Teacher}`.
    """
    trained = {id(variable) for variable in student.trainable_variables}
    for name, teacher in teachers.items():
        for model in teacher.models():
            if model is student:
                warnings.warn(
                    f"The teacher `{name}` is the student itself, so its outputs change with every "
                    'update. Give the term `source="self"`, which needs no second forward pass, '
                    "or give an `EMATeacher`, or a clone of the student as it is now.",
                    stacklevel=4,
                )
            elif trained & {id(variable) for variable in getattr(model, "variables", ())}:
                warnings.warn(
                    f"The teacher `{name}` shares weights with the student and changes as these "
                    "train. Freeze the shared layers, or clone the teacher.",
                    stacklevel=4,
                )


def arguments(function, args, kwargs):
    """Returns the arguments of a method of `keras.Model` by name, without `self`."""
    given = inspect.signature(function).bind(None, *args, **kwargs).arguments
    del given["self"]
    return given | given.pop("kwargs", {})  # Keras's own, without names in the signature


def compile_model(model, names, jits, taught, args, kwargs):
    """Calls a model's own `compile` with arguments that a distiller needs.

    Args:
        model: the model.
        names: the names of its outputs if they are a dict, else an empty list.
        jits: whether XLA can compile all that runs beside it.
        taught: whether there are terms. Without a `loss` only these are learned then.
        args, kwargs: the arguments of the distiller's `compile`.
    """
    signature = inspect.signature(model.compile)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if inspect.Parameter.VAR_POSITIONAL in kinds:  # it passes its arguments on to Keras's `compile`
        signature = inspect.signature(functools.partial(keras.Model.compile, model))
    given = signature.bind(*args, **kwargs).arguments
    given |= given.pop("kwargs", {})
    if taught and given.get("loss") is None:
        others = any(name.endswith("_loss") for name in signature.parameters)  # as in a detector's
        takes_all = inspect.Parameter.VAR_KEYWORD in kinds and not others
        left_out = [n for n in JUDGED if takes_all or n in signature.parameters]
        given = {**dict.fromkeys(left_out), **given}
    if "metrics" in given:
        given["metrics"] = metrics_for(names, given["metrics"])
    if given.get("jit_compile", "auto") == "auto" and not jits:
        given["jit_compile"] = False
    model.compile(**given)


def check_share(alpha, labels, terms):
    """Raises an error if alpha leaves a share to labels that are not there."""
    if labels or not terms or alpha is None or (schedules.is_number(alpha) and alpha == 1):
        return
    raise ValueError(
        "Without a `loss` in `compile` the student learns from the teacher alone. Leave `alpha` "
        f"out, or give 1. Received: alpha={alpha}"
    )


def check_ready(objective, given):
    """Raises errors that are known before `fit` reads any data.

    Args:
        objective: the `Objective`.
        given: the arguments of `fit` by name.
    """
    idle = set(objective.teachers) - {"self"} - {term.source for term in objective.terms}
    if idle and not (schedules.is_number(objective.alpha) and objective.alpha == 0):
        raise ValueError(
            f"No term uses the teacher `{', '.join(sorted(idle))}`. Give a `Term` with this "
            f"`source`, or leave the teacher out. Received: {objective.terms}"
        )
    validates = given.get("validation_data") is not None or given.get("validation_split")
    if validates and not objective.loses and objective.compiled_metrics is None:
        raise ValueError("There is nothing to validate. Give `compile` a `loss` or `metrics`.")


def check_evaluates(objective):
    """Raises an error for an evaluation without anything to measure."""
    if not objective.loses and objective.compiled_metrics is None:
        raise ValueError("There is nothing to evaluate. Give `compile` a `loss` or `metrics`.")


def listed(callbacks):
    """Returns callbacks as a list, in whatever form `fit` got them."""
    return getattr(callbacks, "callbacks", None) or tree.flatten(callbacks or [])


def brought_terms(callbacks):
    """Returns the terms in the list `terms` of callbacks; other attributes `terms` do not count."""
    found = []
    for callback in listed(callbacks):
        terms = getattr(callback, "terms", None)
        if isinstance(terms, (list, tuple)) and any(isinstance(term, Term) for term in terms):
            found += terms
    return found


def ends_at_nan(callbacks):
    """Returns whether a callback ends the training itself if the loss is not finite."""
    return any(isinstance(each, keras.callbacks.TerminateOnNaN) for each in listed(callbacks))


def rides_along(given, teachers):
    """Returns whether labels will come as `Supervision`, with targets or views."""
    if isinstance(given.get("y"), Supervision):
        return True
    x = given.get("x")
    spec = x.element_spec if is_dataset(x) else None
    if isinstance(spec, tuple) and len(spec) > 1 and isinstance(spec[1], Supervision):
        return True
    unknown = given.get("y") is None and not is_dataset(x)  # a generator or a PyDataset
    return unknown and any(isinstance(each, CachedTeacher) for each in teachers.values())


@contextlib.contextmanager
def not_compiled(model):
    """Within the block a model counts as not compiled, so that its file holds no optimizer."""
    before, model.compiled = model.compiled, False
    try:
        yield
    finally:
        model.compiled = before
