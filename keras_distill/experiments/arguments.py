"""Checks the arguments of an experiment before any training."""

import inspect

import keras

from keras_distill.report.measures import MEASURED
from keras_distill.report.tasks import Classes, Numbers
from keras_distill.training.heads import kind_of_loss


def checked_terms(terms):
    """Returns terms; refuses a list with weights, which seeds would share."""
    for term in () if terms is None or callable(terms) else terms:
        if term.remembers:
            raise ValueError(
                "`terms` must be a function `(student, teacher)` if a term has a projector or a "
                "loss with weights, because each seed trains new weights. "
                f"Received: a list with {term!r}"
            )
    return terms


def checked_maker(name, function, *takes):
    """Returns the function; raises an error for a model or an optimizer, which make nothing."""
    made = isinstance(function, (keras.Model, keras.optimizers.Optimizer))
    if made or not callable(function) or not _accepts(function, takes):
        what = f"of {takes[0]!r}" if takes else "without arguments"
        raise TypeError(f"`{name}` must be a function {what}. Received: {name}={function!r}")
    return function


def _accepts(function, arguments):
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True


def checked_task(task, loss):
    """Returns the task, `Classes` or `Numbers`: the given one, or the one that fits the loss."""
    if task is None:
        return Numbers if kind_of_loss(loss) == "regression" else Classes
    if task not in MEASURED:
        raise ValueError(f"`task` must be one of {', '.join(MEASURED)}. Received: task={task!r}")
    return MEASURED[task]


def checked_count(name, value, least):
    """Returns a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"`{name}` must be an integer of at least {least}. Received: {name}={value!r}"
        )
    return value


def checked_model(name, made):
    """Returns the result of the function `name` if it is a model."""
    if not isinstance(made, keras.Model):
        raise TypeError(
            f"`{name}` must return a `keras.Model`, because the run saves it. To learn from a "
            "SavedModel or another function, use `ModelTeacher` in your own script. "
            f"Received: {made!r}"
        )
    return made


def check_loads(name, model):
    """Raises an error for a model with unregistered classes, which could not be loaded later."""
    try:
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise TypeError(
            f"`{name}` must return a model that can be saved and loaded. Register its classes "
            "with `@keras.saving.register_keras_serializable()` and give each a `get_config`. "
            f"Received: {model.name}, which fails with {reason[:300]}"
        ) from error
