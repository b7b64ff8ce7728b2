"""What a teacher makes of raw samples before its layers see them."""

import keras

from keras_distill.teachers import EnsembleTeacher, ModelTeacher
from keras_distill.text.pipeline import is_text
from keras_distill.text.view import is_textual, preprocessed, preprocessor_of, unpacked


def reader_of(teacher, x):
    """Returns a function from inputs such as `x` to what the layers of a teacher take.

    A KerasHub task reads raw samples by its preprocessor, as in its own `predict`. A preprocessor
    that tokenizes reads strings, and tokens pass as they are; any other reads everything. The
    inputs of a teacher that is no task pass as they are.

    Args:
        teacher: a `Teacher`.
        x: a batch of inputs, or their specification.

    Raises:
        ValueError: the teacher is an ensemble of tasks, which would each read `x` in its own way.
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
    """The KerasHub task that a teacher runs on what its own preprocessor makes, or `None`."""
    own = isinstance(teacher, ModelTeacher) and teacher.preprocess is None
    return teacher.model if own and preprocessor_of(teacher.model) is not None else None


def _members(teacher):
    return teacher.members if isinstance(teacher, EnsembleTeacher) else {}


def _reads(task, x):
    """Returns whether the preprocessor of a task has yet to read `x`."""
    return is_text(x) or not is_textual(task.preprocessor)


def _brief(leaf):
    return f"{leaf.dtype.name}{tuple(leaf.shape)}"
