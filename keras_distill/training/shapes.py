"""Refuses two sides whose shapes differ, and names the axis and what mends it."""

from keras import ops, tree

from keras_distill.batch import TopK
from keras_distill.training.weights import fits

AXES = {
    2: ("batch", "classes"),
    3: ("batch", "tokens", "width"),
    4: ("batch", "height", "width", "channels"),
}


def check_shapes(term, y_true, y_pred):
    """Refuses what would broadcast in silence.

    Args:
        term: the `Term`, for its name and paths.
        y_true: the source's side.
        y_pred: the student's side, behind the projector.

    Raises:
        ValueError: naming the axis in which both sides differ, and the way out for that axis.
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
        f"`{term.name}`: shapes differ: teacher `{term.teacher}` {shapes[0]}, student "
        f"`{term.student}` {shapes[1]}. {_way_out(term, y_true, y_pred)}"
    )


def _way_out(term, y_true, y_pred):
    """What mends the first axis that differs."""
    if tree.is_nested(y_true) or not ops.is_tensor(y_true):
        return 'Choose one of several outputs by "output:KEY".'
    teacher, student = tuple(y_true.shape), tuple(y_pred.shape)
    if len(teacher) != len(student):
        return "One side has more axes: pool or flatten it, or tap another layer."
    axis = next(
        i for i, pair in enumerate(zip(teacher, student)) if None not in pair and pair[0] != pair[1]
    )
    if axis == 0:
        return "The batches differ in size: each side must answer for the same examples."
    if axis < len(teacher) - 1:
        return _way_out_between(term, axis, teacher, student)
    if term.loss.expects_logits:
        return (
            f"The classes differ, {teacher[-1]} and {student[-1]}: wrap the loss in "
            "`losses.ClassSubset`, or choose the teacher's classes with "
            "`ModelTeacher(lambda x: keras.ops.take(model(x), classes, axis=-1))`."
        )
    return 'The widths differ. Give `projector="auto"` or a layer.'


def _way_out_between(term, axis, teacher, student):
    if len(teacher) == 4:
        resize = "" if term.loss.expects_logits else 'give `projector="auto"`, or '
        return (
            f"The resolutions differ, {teacher[1:3]} and {student[1:3]}: {resize}resize one side "
            "with `ModelTeacher(lambda x: keras.ops.image.resize(model(x), size))`."
        )
    return (
        f"Axis {axis} differs, {teacher[axis]} and {student[axis]} tokens. Give both sides one "
        "tokenizer and one sequence length, or compare one value an example."
    )


def _check_top_k(term, top, y_pred):
    if not term.loss.takes_top_k:
        raise ValueError(
            f"`{term.name}`: {type(term.loss).__name__} does not take the `TopK` that the "
            f"source has at `{term.teacher}`. Cache whole logits (leave `top_k` out), or take "
            "a loss that does, such as `KLDivergence`."
        )
    ids, log_probs, tail = (tuple(part.shape) for part in top[:3])
    if not (fits(ids, log_probs) and fits(ids[:-1], tail) and fits(tail, y_pred.shape[:-1])):
        raise ValueError(
            f"`{term.name}`: shapes differ: ids {ids}, log-probabilities {log_probs} and tail "
            f"{tail} of the `TopK`, student `{term.student}` {tuple(y_pred.shape)}."
        )
