"""A teacher's own view of raw data, if it reads them in another way than the student."""

import keras

from keras_distill.text.tokens import LENGTHS

OF_NO_ACCOUNT = ("name", "trainable", "dtype", "tokenizer", "config_file")


class View:
    """The inputs that a teacher's preprocessor makes of raw data, if the student's makes others.

    Args:
        model: the teacher, a KerasHub task.
        student: the student, a task with another preprocessor, or a model of raw data.
    """

    def __init__(self, model, student):
        self.model = model
        self.key = f"{model.name}_{id(model)}"
        ours = preprocessor_of(student)
        self.reads_text = is_textual(model.preprocessor)
        self.why = _difference(model.preprocessor, ours) if self.reads_text else None
        self.foreign = ours is not None and bool(_other_tokenizer(model.preprocessor, ours))

    def read(self, x, y=None, sample_weight=None):
        """Returns the teacher's inputs for a batch of raw samples."""
        return unpacked(preprocessed(self.model, x, y, sample_weight))

    def beside(self, theirs, ours):
        """Returns further entries of the batch, from both preprocessors' outputs: none here."""
        return {}

    def spans_in(self, batch, paths):
        """Returns the spans of text among the paths: none."""
        return {}

    def rides_in(self, batch):
        """Returns whether a `Batch` holds the view; otherwise the data were not raw."""
        if self.key in (batch.views or ()):
            return True
        if self.foreign:
            raise ValueError(
                f"The teacher `{self.model.name}` and the student tokenize text differently "
                f"({self.why}). Pass strings to `fit`, so that each tokenizes them itself, or "
                "convert the inputs with `ModelTeacher(teacher, preprocess=...)`."
            )
        return False

    def check(self, features):
        """Raises an error if a term would compare tokens of different texts."""
        for path, value in features.items():
            ranks = [len(getattr(v, "shape", ())) for v in keras.tree.flatten(value)]
            if self.why and max(ranks, default=0) > 2:
                raise ValueError(
                    f"`{path}` of the teacher `{self.model.name}` has values for every token, but "
                    f"the student has other tokens ({self.why}). Give both the same tokenizer and "
                    "sequence length, or compare one value per example, such as the logits of "
                    "classes. For language models, give `ModelTeacher(model, aligned=True)`."
                )


def view_of(model, student):
    """Returns the `View` that a teacher needs beside this student, or `None`."""
    theirs, ours = preprocessor_of(model), preprocessor_of(student)
    if theirs is None or theirs is ours:
        return None
    alike = ours is not None and type(ours) is type(theirs) and _names(model) == _names(student)
    if alike and _settings(ours) == _settings(theirs):
        if not is_textual(theirs) or _difference(theirs, ours) is None:
            return None
    return View(model, student)


def preprocessor_of(model):
    """Returns the preprocessor that a KerasHub task runs in `fit` and `predict`, or `None`."""
    return getattr(model, "preprocessor", None) if hasattr(model, "preprocess_samples") else None


def is_textual(preprocessor):
    """Returns whether a preprocessor tokenizes: it then takes strings, not tokens."""
    return getattr(preprocessor, "tokenizer", None) is not None


def preprocessed(model, x, y=None, sample_weight=None):
    """Returns samples as the model's own `fit` would preprocess them."""
    given = {"y": y, "sample_weight": sample_weight}
    return model.preprocess_samples(x, **{k: v for k, v in given.items() if v is not None})


def unpacked(data):
    """Returns a preprocessor's output as `(x, y, sample_weight)`."""
    return keras.utils.unpack_x_y_sample_weight(data)


def _difference(theirs, ours):
    """Returns in words how the tokens of two preprocessors differ, or `None`."""
    if ours is None:
        return "the student has no preprocessor"
    return _other_tokenizer(theirs, ours) or _other_length(theirs, ours)


def _other_tokenizer(theirs, ours):
    tokenizers = [getattr(each, "tokenizer", None) for each in (theirs, ours)]
    if None in tokenizers:
        return None if tokenizers[0] is tokenizers[1] else "only one of them has a tokenizer"
    if _alike(*tokenizers):
        return None
    sizes = [tokenizer.vocabulary_size() for tokenizer in tokenizers]
    return f"the tokenizers differ (teacher {sizes[0]:,} tokens, student {sizes[1]:,})"


def _other_length(theirs, ours):
    for name in LENGTHS:
        lengths = [getattr(each, name, None) for each in (theirs, ours)]
        if lengths[0] != lengths[1]:
            return f"`{name}` differs (teacher {lengths[0]}, student {lengths[1]})"
    return None


def _alike(first, second):
    if first is second:
        return True
    merges = [getattr(each, "merges", None) for each in (first, second)]
    same = _settings(first) == _settings(second) and merges[0] == merges[1]
    return same and first.get_vocabulary() == second.get_vocabulary()


def _settings(layer):
    """Returns the settings of a preprocessor and of the layers that it holds."""
    return _plain({k: v for k, v in layer.get_config().items() if k not in OF_NO_ACCOUNT})


def _plain(value):
    """Returns a config without the numbers that Keras adds to names."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items() if key not in OF_NO_ACCOUNT}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _names(model):
    inputs = model.input
    return sorted(inputs) if isinstance(inputs, dict) else None
