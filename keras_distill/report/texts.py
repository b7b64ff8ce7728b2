"""Judges texts that models write, by ROUGE against reference texts."""

import keras
import numpy as np

from keras_distill.report.tasks import TASKS, TINY

KINDS = ("rouge1", "rouge2", "rougeL")


class Texts:
    """One text for each example, judged by ROUGE-L, the mean F1 of the examples without stemming.

    Args:
        outputs: Not used.

    Raises:
        ImportError: if `rouge-score` is not installed.
    """

    name, metric, heading, scale, lower = "summaries", "rougeL", "ROUGE-L %", 100, False

    def __init__(self, outputs):
        try:
            from rouge_score import rouge_scorer
        except ImportError as error:
            raise ImportError(
                "The task `summaries` needs rouge-score. Run `pip install rouge-score`."
            ) from error
        self.scorer = rouge_scorer.RougeScorer(list(KINDS))

    def answers(self, outputs, probable=None):
        """Returns the texts, an array `(batch,)`."""
        return outputs

    def sums(self, found, y, weights):
        """Returns `(batch, 4)`: the weighted ROUGE-1, -2 and -L of each text, and the weights."""
        y = np.asarray(y).reshape(-1)
        if y.shape != found.shape:
            raise ValueError(
                f"`data` must hold one text for each of {len(found)} answers. Received: {y.shape}"
            )
        scores = [self.scorer.score(plain(right), said) for right, said in zip(y, found)]
        rouge = [[each[kind].fmeasure for kind in KINDS] for each in scores]
        return np.concatenate([np.array(rouge) * weights[:, None], weights[:, None]], -1)

    def value(self, totals):
        return totals[..., 2] / totals[..., 3]

    def score(self, sums):
        """Returns the quality of each text; larger is better."""
        return sums[:, 2] / np.maximum(sums[:, 3], TINY)

    def measures(self, totals):
        """Returns all measures of a total of sums."""
        return dict(zip(KINDS, (totals[:3] / totals[3]).tolist()))

    def likeness(self, found, teacher, weights):
        """Returns `(batch, 3)`: equal texts, ROUGE-L to the teacher's text, the weights."""
        same = found == teacher
        rouge = [self.scorer.score(right, said)["rougeL"].fmeasure
                 for right, said in zip(teacher, found)]  # fmt: skip
        return np.stack([same * weights, np.array(rouge) * weights, weights], -1)

    def likenesses(self, totals):
        """Returns the measures of a total of `likeness`."""
        return {"agreement": totals[0] / totals[2], "rouge_to_teacher": totals[1] / totals[2]}

    def rows(self, found, y, weights):
        """Returns `None`: texts have no confidence."""
        return None


TASKS[Texts.name] = Texts


def plain(text):
    """Returns a text as a Python string; TensorFlow's are bytes."""
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


def writer(model):
    """Returns a function from a batch of inputs to the list of texts that a model writes.

    Args:
        model: A model with `generate`, such as KerasHub's tasks, or a function of the inputs.
    """
    write = model.generate if isinstance(model, keras.Model) else model

    def written(x):
        """Converts arrays of texts to lists of strings."""
        x = keras.tree.map_structure(_as_list, x)
        return write(x)

    return written


def _as_list(array):
    array = np.asarray(array)
    return [plain(each) for each in array] if array.dtype.kind in "OSU" else array


def texts_of(model, x):
    """Returns the texts that a model writes for a batch, as the only output of a model."""
    said = [plain(each) for each in writer(model)(x)]
    return {"": np.array(said, object)}
