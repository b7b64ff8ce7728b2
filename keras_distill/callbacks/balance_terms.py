"""Sets weights by what each term contributes, measured before the first step."""

import itertools
from typing import Any

import keras
import numpy as np

from keras_distill import _backend, schedules
from keras_distill._messages import say

WAYS = ("gradient", "loss")


class BalanceTerms(keras.callbacks.Callback):
    """Sets terms' weights so that each contributes a given share at the start of training.

    A term contributes `alpha * weight * n`, and the labels contribute `(1 - alpha) * n`. With
    `by="gradient"`, `n` is the norm of the gradient with respect to the student's trainable
    variables. With `by="loss"`, `n` is the value. Both are means over batches. Terms without a
    share, and the label loss, keep their weight and make up the rest, so the shares must then sum
    to less than 1. If every term has a share and labels do not count, the shares must sum to 1.

    The callback measures once, in training mode, before the first step. The student stays as it
    was. Then the weights are fixed. They are logged as `{term}_weight` and kept in the
    distiller's checkpoint, so an interrupted `fit` resumes with them. A `Term` keeps its own
    weight; the distiller's objective holds the one that counts. If a weight is a variable, it is
    assigned.

    Args:
        shares: `{term's name: share}`, each share in (0, 1].
        by: `"gradient"` or `"loss"`. Defaults to `"gradient"`.
        data: a batched `tf.data.Dataset` to measure on, as `fit` takes it. Defaults to `None`,
            which is the first batch of the distiller's first `fit`.
        batches: how many batches of `data` to take. Defaults to 8.
        verbose: 1 shows a progress bar and prints the weights. Defaults to 1.

    Raises:
        ValueError: before the first step, if a term is unknown or contributes nothing, a weight is
            a schedule, or the shares have a wrong sum.

    Example:

    ```python
    hint = Term("mse", student="block_2", teacher="block_2", projector="auto", name="hint")
    terms = [Term(losses.KLDivergence(2.0), name="kd"), hint]
    distiller = Distiller(student, teacher=teacher, terms=terms)
    distiller.compile("adam", loss)
    distiller.fit(x, y, callbacks=[callbacks.BalanceTerms({"kd": 0.4, "hint": 0.1})])
    ```
    """

    def __init__(
        self,
        shares: dict[str, float],
        *,
        by: str = "gradient",
        data: Any = None,
        batches: int = 8,
        verbose: int = 1,
    ):
        super().__init__()
        if by not in WAYS:
            raise ValueError(f"`by` must be one of {WAYS}. Received: by={by!r}")
        if not isinstance(batches, int) or batches < 1:
            raise ValueError(f"`batches` must be a positive integer. Received: batches={batches}")
        for name, share in shares.items():
            if not 0 < share <= 1:
                raise ValueError(f"A share must be in (0, 1]. Received: {name}={share}")
        if not 0 < sum(shares.values()) <= 1 + schedules.ROUNDING:
            raise ValueError(f"`shares` must sum to at most 1. Received: shares={shares}")
        self.shares, self.by, self.data = dict(shares), by, data
        self.batches, self.verbose = batches, verbose
        self._variables, self._measured = {}, None

    def set_model(self, model):
        if model is not self.model:
            super().set_model(model)
            self._take_weights(model)

    def on_epoch_begin(self, epoch, logs=None):
        if not int(keras.ops.convert_to_numpy(self._measured)):  # a resumed `fit` has loaded it
            self.model.objective.when_ready(self._balance)
        self._measured.assign(1)

    def on_epoch_end(self, epoch, logs=None):
        for name, variable in self._variables.items():
            logs[f"{name}_weight"] = schedules.number_at(variable, 0)

    def _take_weights(self, distiller):
        """Replaces each term's weight by a variable that the distiller saves."""
        objective = distiller.objective
        terms = {term.name: term for term in objective.terms}
        for name in self.shares:
            _check_term(name, terms, objective)
        for name in self.shares:
            if not isinstance(objective.weight_of(terms[name]), keras.Variable):
                start = objective.weight_of(terms[name])
                objective.weights[name] = distiller.keep(f"{name}_weight", start)
                distiller.train_function = None  # it was traced with the number
        self._variables = {name: objective.weight_of(terms[name]) for name in self.shares}
        for variable in self._variables.values():
            variable.trainable = False  # Keras's default is `True` for a variable that a user made
        self._measured = distiller.keep("balanced", 0)
        self._measured.assign(0)

    def _balance(self):
        with _backend.scope_of(self.model):
            self._weigh()

    def _weigh(self):
        sizes, objective = self._sizes(), self.model.objective
        step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        alpha = schedules.number_at(objective.share, step)
        weights = {t.name: schedules.number_at(objective.weight_of(t), step)
                   for t in objective.terms}  # fmt: skip
        for name, weight in self._solved(sizes, alpha, weights).items():
            self._variables[name].assign(weight)
        if self.verbose:
            found = [f"{name} {schedules.number_at(variable, 0):.4g}"
                     for name, variable in self._variables.items()]  # fmt: skip
            say(f"Weights by {self.by}: {', '.join(found)}")

    def _solved(self, sizes, alpha, weights):
        """Returns the weights that give every named term its share."""
        least = 1e-6 * max(sizes.values())  # smaller values are rounding
        bad = [name for name in self.shares if not least < sizes[name] < float("inf")]
        if alpha == 0 or bad:
            what = f"The {self.by} of `{bad[0]}` is {sizes[bad[0]]:.4g}" if bad else "`alpha` is 0"
            raise ValueError(f"{what} at the start of training, so no weight can set a share.")
        parts = {name: alpha * weights[name] * sizes[name] for name in weights}
        rest = sum(part for name, part in parts.items() if name not in self.shares)
        rest += (1 - alpha) * sizes.get("label_loss", 0.0)
        named, shared = sum(parts[name] for name in self.shares), sum(self.shares.values())
        _check_rest(rest, shared, self.shares)
        total = rest / (1 - shared) if rest > 0 else named or alpha
        return {name: share * total / (alpha * sizes[name]) for name, share in self.shares.items()}

    def _sizes(self):
        """Returns the contribution of each part at weight 1: `{name: mean over batches}`."""
        objective, measure = self.model.objective, self.model.sizes(self.by)
        data = [objective.first_batch] if self.data is None else self._taken()
        bar = keras.utils.Progbar(len(data), verbose=self.verbose, unit_name="batch")
        found = []
        for number, batch in enumerate(data):
            found.append(measure(batch))
            bar.update(number + 1)
        return {name: float(np.mean([sizes[name] for sizes in found])) for name in found[0]}

    def _taken(self):
        found = [self.model.unpacked(data) for data in itertools.islice(self.data, self.batches)]
        if not found:
            raise ValueError("`data` must hold at least one batch. Received: an empty dataset")
        return found


def _check_term(name, terms, objective):
    if name not in terms:
        raise ValueError(
            f"`shares` must name terms of the distiller ({', '.join(terms)}). Received: `{name}`"
        )
    weight = objective.weight_of(terms[name])
    if not schedules.is_number(weight) and not isinstance(weight, keras.Variable):
        raise ValueError(
            f"`BalanceTerms` cannot set the weight of `{name}`, because it is a schedule. Give the "
            "term a number as its weight, or leave it out of `shares`."
        )


def _check_rest(rest, shared, shares):
    whole = abs(shared - 1) <= schedules.ROUNDING
    if rest > 0 and whole:
        raise ValueError(
            "`shares` must sum to less than 1, since labels or other terms contribute too. "
            f"Received: shares={shares}"
        )
    if not rest > 0 and not whole:
        raise ValueError(
            "`shares` must sum to 1, since neither labels nor other terms contribute. "
            f"Received: shares={shares}"
        )
