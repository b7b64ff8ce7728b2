"""What a teacher makes of raw samples before its layers see them."""

import keras

from keras_distill.teachers import EnsembleTeacher, ModelTeacher
from keras_distill.text.view import preprocessed, preprocessor_of, unpacked


def reader_of(teacher, x):
    """A function from inputs such as `x` to what the layers of a teacher take.

    A KerasHub task reads raw samples by its preprocessor, as in its own `predict`. What that
    preprocessor has already made passes as it is, and so do the inputs of every other teacher.

    Args:
        teacher: a `Teacher`.
        x: a batch of inputs, or their specification.

    Raises:
        ValueError: the teacher is an ensemble of tasks, which would each read `x` in its own way.
    """
    task = _task_of(teacher)
    if task is not None and not _is_made(task, x):
        return lambda x: unpacked(preprocessed(task, x))[0]
    for name, member in _members(teacher).items():
        if _task_of(member) is not None and not _is_made(member.model, x):
            raise ValueError(
                f"The member `{name}` of the ensemble has a preprocessor, and the members of an "
                "ensemble must read the same inputs. Preprocess the dataset, or write one cache "
                f"for each member. Received: inputs {keras.tree.map_structure(_brief, x)}"
            )
    return lambda x: x


def _task_of(teacher):
    """The KerasHub task that a teacher runs on what its own preprocessor makes, or `None`."""
    own = isinstance(teacher, ModelTeacher) and teacher.preprocess is None
    return teacher.model if own and preprocessor_of(teacher.model) is not None else None


def _members(teacher):
    return teacher.members if isinstance(teacher, EnsembleTeacher) else {}


def _is_made(task, x):
    """Whether `x` has the names of the model's inputs, which raw samples have not."""
    return isinstance(x, dict) and isinstance(task.input, dict) and {*task.input} <= {*x}


def _brief(leaf):
    return f"{leaf.dtype.name}{tuple(leaf.shape)}"
