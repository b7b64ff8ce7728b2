"""Losses that standardize logits, or select classes, for another loss."""

import warnings
from collections.abc import Sequence

import keras
from keras import ops

from keras_distill.batch import TopK
from keras_distill.losses.arithmetic import at_least, root
from keras_distill.losses.distillation_loss import DistillationLoss
from keras_distill.text import tokens


class WrappedLoss(DistillationLoss):
    """A loss that changes the logits of both sides and passes them to another loss."""

    config = ("loss",)
    expects_logits = True

    def __init__(self, loss, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(loss, DistillationLoss) or not loss.expects_logits:
            raise ValueError(f"`loss` must be a loss on logits. Received: loss={loss!r}")
        self.loss = loss
        self.needs, self.reads = loss.needs, loss.reads
        self.across_batch = loss.across_batch

    def call(self, y_true, y_pred, **extras):
        if isinstance(y_true, TopK):
            raise ValueError(f"`{self.name}` needs the teacher's logits. Received: a `TopK`")
        return self.loss.call(*self.changed(y_true, y_pred), **extras)


@keras.saving.register_keras_serializable(package="keras_distill")
class Standardized(WrappedLoss):
    """Standardizes each row of logits (mean 0, standard deviation 1) for another loss.

    `z = (logits - mean) / (std + 1e-7)` over the classes, on both sides, then
    `loss(z_teacher, z_student)`. The deviation is that of a sample (divided by `classes - 1`). The
    temperature of `loss` is the base temperature of the paper. Logits of -inf stay what they are
    and do not enter the mean.

    Args:
        loss: a loss on logits, such as `KLDivergence(2.0)` or `DecoupledKD()`.
        name: the loss's name. Defaults to `"standardized_"` and the name of `loss`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's logits, (batch, ..., classes).
        y_pred: the student's logits, of the same shape.
        mask, labels: as `loss` takes them.

    Returns:
        What `loss` returns.

    Raises:
        ValueError: if `loss` is not a loss on logits.

    Example:

    ```python
    Term(losses.Standardized(losses.KLDivergence(temperature=2.0)), weight=9.0)
    ```

    Reference:
        - [Sun et al., 2024](https://arxiv.org/abs/2403.01427)
    """

    def __init__(self, loss: keras.losses.Loss, name: str | None = None, **kwargs):
        super().__init__(loss, name=name or f"standardized_{loss.name}", **kwargs)

    def changed(self, y_true, y_pred):
        return standardized(y_true), standardized(y_pred)


def standardized(logits):
    """Returns logits with mean 0 and standard deviation 1 over the classes that are finite."""
    finite = ops.isfinite(logits)
    count = ops.sum(ops.cast(finite, logits.dtype), axis=-1, keepdims=True)
    kept = ops.where(finite, logits, 0.0)
    mean = ops.sum(kept, axis=-1, keepdims=True) / at_least(count, 1.0)
    centred = ops.where(finite, kept - mean, 0.0)
    squared = ops.sum(ops.square(centred), axis=-1, keepdims=True)
    variance = squared / at_least(count - 1, 1.0)
    return ops.where(finite, centred / (root(variance) + 1e-7), logits)


@keras.saving.register_keras_serializable(package="keras_distill")
class ClassSubset(WrappedLoss):
    """Applies a loss on logits to the classes that both sides have.

    The softmax of both sides runs only over these classes. Without a list a side compares its first
    classes, as many as the other side has. This fits a vocabulary that is padded at its end.

    Args:
        loss: a loss on logits.
        student_classes: which of the student's classes are compared, a list of integers; `None`
            for the first ones.
        teacher_classes: their counterparts among the teacher's classes, in the same order; `None`
            for the first ones.
        name: the loss's name. Defaults to the name of `loss`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's logits, (batch, ..., teacher's classes).
        y_pred: the student's logits, (batch, ..., student's classes).
        mask, labels: as `loss` takes them.

    Returns:
        What `loss` returns.

    Raises:
        ValueError: if `loss` is not a loss on logits; if the lists differ in length or hold
            negative numbers; or if `student_classes` is given for a loss that takes labels, since
            these count the student's classes.

    Example:

    ```python
    # a student of 3 classes that the teacher knows as 281, 207 and 340
    losses.ClassSubset(losses.KLDivergence(2.0), teacher_classes=[281, 207, 340])
    ```
    """

    config = ("student_classes", "teacher_classes")
    same_shape = False

    def __init__(
        self,
        loss: keras.losses.Loss,
        student_classes: Sequence[int] | None = None,
        teacher_classes: Sequence[int] | None = None,
        name: str | None = None,
        **kwargs,
    ):
        super().__init__(loss, name=name or loss.name, **kwargs)
        self.student_classes = _classes("student_classes", student_classes)
        self.teacher_classes = _classes("teacher_classes", teacher_classes)
        both = (self.student_classes, self.teacher_classes)
        if None not in both and len(both[0]) != len(both[1]):
            raise ValueError(
                "`student_classes` and `teacher_classes` must have the same length. "
                f"Received: {len(both[0])} and {len(both[1])} classes"
            )
        if "labels" in self.needs and student_classes is not None:
            raise ValueError(
                f"`{loss.name}` takes labels, which `student_classes` would renumber. Leave "
                "`student_classes` out, or give a loss without labels."
            )

    @classmethod
    def from_tokenizers(cls, loss, student, teacher, **kwargs):
        """Returns the loss between the tokens that both tokenizers have, by their text.

        Special tokens are paired by their purpose, so two tokens that end a text are the same.
        Tokens that the other side lacks are left out of both sides' softmax. A warning says how
        many there are.

        Args:
            loss: a loss on logits.
            student, teacher: tokenizers of KerasHub, or any objects with `get_vocabulary()` and
                `token_to_id(token)`.
            **kwargs: as in `ClassSubset`.

        Raises:
            ValueError: if no token is common to both, or `loss` takes labels and some of the
                student's tokens have no partner.
            TypeError: for an object that is no tokenizer.
        """
        ours, theirs = tokens.shared(student, teacher)
        sizes = [len(tokens.texts(tokenizer)) for tokenizer in (student, teacher)]
        lost = [1 - len(ours) / size for size in sizes]
        missing = (
            f"{lost[0]:.1%} of the student's {sizes[0]:,} tokens and {lost[1]:.1%} of the "
            f"teacher's {sizes[1]:,} tokens are not in the other vocabulary"
        )
        if not ours:
            raise ValueError(f"{missing}. Compare the vocabularies with `UniversalLogits`.")
        if any(lost):
            warnings.warn(f"{missing}. The loss leaves them out.", stacklevel=2)
        if ours == list(range(len(ours))):  # labels may count all of these
            ours = None
        return cls(loss, student_classes=ours, teacher_classes=theirs, **kwargs)

    def changed(self, y_true, y_pred):
        size = min(
            y.shape[-1] if classes is None else len(classes)
            for y, classes in ((y_true, self.teacher_classes), (y_pred, self.student_classes))
        )
        return (
            self._cut("teacher_classes", y_true, size),
            self._cut("student_classes", y_pred, size),
        )

    def _cut(self, name, logits, size):
        classes, width = getattr(self, name), logits.shape[-1]
        if classes is None:
            return logits[..., :size]
        if len(classes) > size or max(classes) >= width:
            raise ValueError(
                f"`{name}` of `{self.name}` must name {size} classes below {width}, the width of "
                f"the logits. Received: {len(classes)} classes up to {max(classes)}"
            )
        return ops.take(logits, ops.convert_to_tensor(classes, dtype="int32"), axis=-1)


def _classes(name, classes):
    if classes is None:
        return None
    classes = [int(one) for one in classes]
    if not classes or min(classes) < 0:
        raise ValueError(f"`{name}` must be non-negative class ids. Received: {name}={classes}")
    return classes
