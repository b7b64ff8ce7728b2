"""Losses between models with different tokenizers."""

import keras
from keras import ops

from keras_distill.batch import TopK
from keras_distill.losses import masks
from keras_distill.losses.distillation_loss import one_of
from keras_distill.losses.softened import SoftenedLoss, log_probabilities, scaled
from keras_distill.losses.wrapped import WrappedLoss

MERGES = ("mean", "product")


@keras.saving.register_keras_serializable(package="keras_distill")
class UniversalLogits(SoftenedLoss):
    """Distance between sorted probabilities, for sides with different classes (ULD).

    `loss = sum_i |p_teacher(i) - p_student(i)|`, where `p(i)` is the `i`-th largest of
    `softmax(logits / T)` and the side with fewer classes has zeros at its end. This is the
    Wasserstein distance if all classes have the same distance from each other. Tokens are compared
    one by one. If the two sides have different tokenizers, wrap the loss in `AlignedSpans`.

    Args:
        temperature: `T`, positive: a number, a schedule or a `keras.Variable`. Defaults to `1.0`.
        name: the loss's name. Defaults to `"universal_logits"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's logits, (batch, ..., teacher's classes).
        y_pred: the student's logits, (batch, ..., student's classes).

    Returns:
        One value per example or token: (batch, ...).

    Raises:
        ValueError: for a `temperature` that is not positive, or sides that differ in more than
            the number of classes.

    Example:

    ```python
    # the student has 1,000 classes and the teacher 50
    Term(losses.UniversalLogits(temperature=2.0))
    ```

    Reference:
        - [Boizard et al., 2024](https://arxiv.org/abs/2402.12030)
    """

    same_shape = False

    def call(self, y_true, y_pred, temperature=None):
        shapes = tuple(y_true.shape), tuple(y_pred.shape)
        known = [size for size in zip(*(shape[1:-1] for shape in shapes)) if None not in size]
        if len(shapes[0]) != len(shapes[1]) or any(one != other for one, other in known):
            raise ValueError(
                f"`{self.name}` compares token by token, so both sides need the same number of "
                "tokens. Otherwise give `AlignedSpans(UniversalLogits())`. Received: logits of "
                f"shapes {shapes[0]} (teacher) and {shapes[1]} (student)"
            )
        temperature = self.temperature_now(y_pred, temperature)
        width = max(shapes[0][-1], shapes[1][-1])
        teacher, student = (_sorted(scaled(y, temperature), width) for y in (y_true, y_pred))
        return ops.sum(ops.abs(teacher - student), axis=-1)


def _sorted(logits, width):
    """Returns probabilities in ascending order, with zeros before them for a length of `width`."""
    more = [(0, 0)] * (len(logits.shape) - 1) + [(width - logits.shape[-1], 0)]
    return ops.pad(ops.sort(ops.softmax(logits, axis=-1), axis=-1), more)


@keras.saving.register_keras_serializable(package="keras_distill")
class AlignedSpans(WrappedLoss):
    """Applies a loss on logits to spans of text, for two sides with different tokenizers.

    The tokens of a span become one distribution on each side: the softmax of the mean of their
    log-probabilities (the geometric mean), or of the sum (the product). `loss` compares these.
    An example's value is the mean over its spans. A span counts if all of its tokens count.

    Args:
        loss: a loss on logits that takes no labels, such as `UniversalLogits()`, or
            `ClassSubset.from_tokenizers(KLDivergence(), ...)` for the tokens that both have.
        merge: `"mean"` or `"product"`. Defaults to `"mean"`.
        name: the loss's name. Defaults to `"aligned_"` and the name of `loss`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: a dict. `logits` are the teacher's, (batch, teacher's tokens, classes). `spans`
            holds for each of its tokens the number of its span, from 1, or 0 for none, (batch,
            teacher's tokens). `student_spans` holds the same for the student's tokens.
        y_pred: the student's logits, (batch, tokens, classes).
        mask: the weights of the student's tokens.

    Returns:
        One value per example: (batch,).

    Attributes:
        PATHS: where a `ModelTeacher(model, aligned=True)` has the parts of `y_true`. Give it as a
            term's `teacher`.

    Raises:
        ValueError: if `loss` is not a loss on logits, or takes labels, or for another `merge`.

    Example:

    ```python
    aligned = ModelTeacher(teacher, aligned=True)
    terms = recipes.uld()  # AlignedSpans(UniversalLogits()), with the spans' paths
    distiller = Distiller(student, teacher=aligned, terms=terms)
    distiller.compile("adam", loss)
    distiller.fit(texts)
    ```

    Reference:
        - [Boizard et al., 2024](https://arxiv.org/abs/2402.12030)
    """

    config = ("merge",)
    PATHS = {"logits": "output", "spans": "spans:teacher", "student_spans": "spans:student"}
    same_shape = False
    token_axes = ()  # the mask counts the student's tokens alone: `call` applies it

    def __init__(
        self, loss: keras.losses.Loss, merge: str = "mean", name: str | None = None, **kwargs
    ):
        super().__init__(loss, name=name or f"aligned_{loss.name}", **kwargs)
        if "labels" in loss.needs:
            raise ValueError(
                f"`{loss.name}` needs a label for each token, but a span has no label."
            )
        self.merge, self.needs = one_of("merge", merge, MERGES), ("mask",)

    def call(self, y_true, y_pred, mask=None, **extras):
        logits = y_true["logits"]
        if isinstance(logits, TopK):
            raise ValueError(f"`{self.name}` needs the teacher's logits. Received: a `TopK`")
        most = min(logits.shape[1], y_pred.shape[1])
        counts = masks.positions(mask, y_pred)
        student, ours = self._merged(y_pred, y_true["student_spans"], counts, most)
        teacher, theirs = self._merged(logits, y_true["spans"], ops.ones_like(logits[..., 0]), most)
        both = ours * theirs
        extras |= {"mask": both} if "mask" in self.loss.needs else {}
        values = ops.where(both > 0, self.loss.call(teacher, student, **extras), 0.0)
        return ops.sum(values, axis=-1) / masks.at_least_one(ops.sum(both, axis=-1))

    def _merged(self, logits, spans, counts, most):
        """Returns the spans' log-probabilities, (batch, most, classes), and 1 if they count."""
        spans = ops.cast(spans, "int32")
        spans = ops.where((spans > 0) & (spans <= most), spans, 0)
        real = counts * ops.cast(spans > 0, counts.dtype)
        log_p = log_probabilities(ops.where(ops.expand_dims(real > 0, -1), logits, 0.0))
        summed = _over_spans(log_p, spans, most)
        tokens = _over_spans(ops.ones_like(log_p[..., :1]), spans, most)
        counted = _over_spans(ops.expand_dims(real, -1), spans, most)
        whole = ops.cast((tokens > 0) & (counted == tokens), log_p.dtype)[..., 0]
        return summed / masks.at_least_one(tokens) if self.merge == "mean" else summed, whole


def _over_spans(values, spans, most):
    """Sums (batch, tokens, ...) over the tokens of spans 1 to `most`: (batch, most, ...)."""
    examples, width = ops.shape(values)[0], values.shape[-1]
    places = spans + ops.expand_dims(ops.arange(examples, dtype="int32"), -1) * (most + 1)
    flat = ops.reshape(values, (-1, width))
    sums = ops.segment_sum(flat, ops.reshape(places, (-1,)), num_segments=examples * (most + 1))
    return ops.reshape(sums, (-1, most + 1, width))[:, 1:]
