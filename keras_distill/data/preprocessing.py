"""Preprocesses raw samples for a teacher."""

import keras

from keras_distill.teachers import EnsembleTeacher, ModelTeacher
from keras_distill.text.pipeline import is_text
from keras_distill.text.view import is_textual, preprocessed, preprocessor_of, unpacked


def reader_of(teacher, x):
    """Returns a function from inputs such as `x` to the inputs of a teacher's layers.

    A KerasHub task reads raw samples by its preprocessor, as in its own `predict`. A preprocessor
    that tokenizes reads strings, and tokens pass unchanged. Any other reads everything. If the
    teacher is no task, its inputs pass unchanged.

    Args:
        teacher: a `Teacher`.
        x: a batch of inputs, or their specification.

    Raises:
        ValueError: if the teacher is an ensemble of tasks, which would each read `x` differently.
    """
    task = _task_of(teacher)
    if task is not None and _reads(task, x):
        return lambda x: unpacked(preprocessed(task, x))[0]
    for name, member in _members(teacher).items():
        if _task_of(member) is not None and _reads(member.model, x):
            raise ValueError(
                f"The member `{name}` of the ensemble has a preprocessor, but the members of an "
                "ensemble must read the same inputs. Write one cache for each member, or "
                "preprocess the dataset and remove the preprocessors "
                "(`model.preprocessor = None`). Received: inputs "
                f"{keras.tree.map_structure(_brief, x)}"
            )
    return lambda x: x


def _task_of(teacher):
    """Returns the KerasHub task that a teacher runs after its own preprocessor, or `None`."""
    own = isinstance(teacher, ModelTeacher) and teacher.preprocess is None
    return teacher.model if own and preprocessor_of(teacher.model) is not None else None


def _members(teacher):
    return teacher.members if isinstance(teacher, EnsembleTeacher) else {}


def _reads(task, x):
    """Returns whether `x` has yet to pass the preprocessor of a task."""
    return is_text(x) or not is_textual(task.preprocessor)


def _brief(leaf):
    return f"{leaf.dtype.name}{tuple(leaf.shape)}"
