"""A teacher's own view of raw text, with its tokens aligned to the student's."""

from keras_distill import _backend
from keras_distill.text import tokens
from keras_distill.text.view import View, preprocessor_of


class AlignedView(View):
    """A view whose tokens are aligned with the student's by the spans of text they cover.

    Args:
        model: the teacher, a KerasHub language model.
        student: the student, another KerasHub language model.
    """

    def __init__(self, model, student):
        for side in (model, student):
            if getattr(preprocessor_of(side), "tokenizer", None) is None:
                raise ValueError(
                    "`aligned=True` needs KerasHub models with tokenizers as teacher and student. "
                    f"Received: `{getattr(side, 'name', side)}`, which has no tokenizer"
                )
        super().__init__(model, student)
        sides = preprocessor_of(student).tokenizer, model.preprocessor.tokenizer
        self.alignment = tokens.Alignment(*sides)

    def rides_in(self, batch):
        if self.key not in (batch.views or ()):
            raise ValueError("`aligned=True` needs raw text. Give strings to `fit`.")
        return True

    def beside(self, theirs, ours):
        """Returns the number of each label's span, on both sides."""
        tf = _backend.tensorflow("`aligned=True`")
        sides = [part for _, labels, weight in (ours, theirs) for part in _tokens(labels, weight)]
        spans = tf.numpy_function(self.alignment, sides, ["int32", "int32"])
        for found, ids in zip(spans, (sides[0], sides[2]), strict=True):
            found.set_shape(ids.shape)
        return {f"{self.key}_spans": dict(zip(("spans:student", "spans:teacher"), spans))}

    def spans_in(self, batch, paths):
        spans = batch.views[f"{self.key}_spans"]
        return {path: spans[path] for path in paths if path in spans}

    def check(self, features):
        """Does nothing: the view is for tokens of another tokenizer."""


def _tokens(labels, weight):
    """Returns the tokens that a language model predicts, and which of them count."""
    tf = _backend.tensorflow("`aligned=True`")
    if not tf.is_tensor(labels) or labels.shape.rank != 2 or not labels.dtype.is_integer:
        raise ValueError(
            "`aligned=True` needs language models, whose preprocessors make a label for each "
            f"token. Received: labels {labels!r}"
        )
    return labels, tf.ones_like(labels) if weight is None else weight
