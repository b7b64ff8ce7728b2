"""Checks that two sides have one shape; the error names the axis and the remedy."""

from keras import ops, tree

from keras_distill.batch import TopK
from keras_distill.training.weights import fits

AXES = {
    2: ("batch", "classes"),
    3: ("batch", "tokens", "width"),
    4: ("batch", "height", "width", "channels"),
}


def check_shapes(term, y_true, y_pred):
    """Raises an error for shapes that would broadcast silently.

    Args:
        term: the `Term`, for its name and paths.
        y_true: the source's value.
        y_pred: the student's value, after the projector.

    Raises:
        ValueError: if the sides differ. It names the first axis that differs, and the remedy.
    """
    if isinstance(y_true, TopK):
        _check_top_k(term, y_true, y_pred)
        return
    if not term.loss.same_shape or not ops.is_tensor(y_pred):
        return
    if ops.is_tensor(y_true) and fits(y_true.shape, y_pred.shape):
        return
    shapes = [tree.map_structure(lambda t: tuple(t.shape), side) for side in (y_true, y_pred)]
    raise ValueError(
        f"`{term.name}` compares different shapes, teacher `{term.teacher}` {shapes[0]} and "
        f"student `{term.student}` {shapes[1]}. {_way_out(term, y_true, y_pred)}"
    )


def _way_out(term, y_true, y_pred):
    """Returns the remedy for the first axis that differs."""
    if tree.is_nested(y_true) or not ops.is_tensor(y_true):
        return 'Choose one of several outputs with "output:KEY".'
    teacher, student = tuple(y_true.shape), tuple(y_pred.shape)
    if len(teacher) != len(student):
        return "One side has more axes. Pool it, flatten it, or tap another layer."
    axis = next(
        i for i, pair in enumerate(zip(teacher, student)) if None not in pair and pair[0] != pair[1]
    )
    if axis == 0:
        return "The batch sizes differ. Give both sides the same examples."
    if axis < len(teacher) - 1:
        return _way_out_between(term, axis, teacher, student)
    if term.loss.expects_logits:
        return (
            f"The numbers of classes differ ({teacher[-1]} and {student[-1]}). Wrap the loss in "
            "`losses.ClassSubset`, or choose the teacher's classes with "
            "`ModelTeacher(lambda x: keras.ops.take(model(x, training=False), classes, -1))`."
        )
    return 'The widths differ. Give `projector="auto"` or a layer.'


def _way_out_between(term, axis, teacher, student):
    if len(teacher) == 4:
        resize = "Resize" if term.loss.expects_logits else 'Give `projector="auto"`, or resize'
        return (
            f"The resolutions differ ({teacher[1:3]} and {student[1:3]}). {resize} one side "
            "with `ModelTeacher(lambda x: keras.ops.image.resize(model(x, training=False), "
            "size))`."
        )
    return (
        f"Axis {axis} differs ({teacher[axis]} and {student[axis]} tokens). Give both sides the "
        "same tokenizer and sequence length, or compare one value per example."
    )


def _check_top_k(term, top, y_pred):
    if not term.loss.takes_top_k:
        raise ValueError(
            f"`{term.name}` reads a `TopK` at `{term.teacher}`, but {type(term.loss).__name__} "
            "needs whole logits. Write the cache without `top_k`, or choose a loss that takes a "
            "`TopK`, such as `KLDivergence`."
        )
    ids, log_probs, tail = (tuple(part.shape) for part in top[:3])
    if not (fits(ids, log_probs) and fits(ids[:-1], tail) and fits(tail, y_pred.shape[:-1])):
        raise ValueError(
            f"`{term.name}` compares different shapes, ids {ids}, log-probabilities {log_probs} "
            f"and tail {tail} of the `TopK`, and student `{term.student}` {tuple(y_pred.shape)}."
        )
