"""Weights by what each term contributes, measured before the first step."""

import itertools

import keras
import numpy as np
import tensorflow as tf

from keras_distill import schedules
from keras_distill.batch import Batch
from keras_distill.training import building
from keras_distill.training.term import global_mean

WAYS = ("gradient", "loss")


class BalanceTerms(keras.callbacks.Callback):
    """Sets terms' weights so that each contributes a given share at the start of training.

    A term contributes `alpha * weight * n`, the labels contribute `(1 - alpha) * n`; `n` is the
    norm of its gradient with respect to the student's trainable variables (`by="gradient"`), or
    its value (`by="loss"`), a mean over batches. Labels and terms without a share keep what they
    contribute and take the rest, so that the shares then sum to less than 1; where every term has
    a share and labels do not count, they sum to 1 and the sum of contributions stays as it was.

    Measured once, in training mode, before the first step; the student is left as it was. Then
    the weights are frozen: logged as `{term}_weight`, kept in the distiller's checkpoint, and
    not measured again when an interrupted `fit` resumes. A weight that is a number becomes a
    variable of its term.

    Args:
        shares: `{term's name: share}`, each share in (0, 1].
        by: `"gradient"` or `"loss"`. Defaults to `"gradient"`.
        data: a batched `tf.data.Dataset` as `fit` takes it, to measure on. Defaults to `None`:
            the first batch of the distiller's first `fit`.
        batches: how many batches of `data` to take. Defaults to 8.
        verbose: 1 shows a progress bar and prints the weights. Defaults to 1.

    Raises:
        ValueError: before the first step: for unknown terms, weights that are schedules, shares
            that leave nothing or something over, and terms that contribute nothing.

    Example:

    ```python
    terms = [Term(KLDivergence(2.0), name="kd"), hint]
    distiller = Distiller(student, teacher=teacher, terms=terms)
    distiller.fit(x, y, callbacks=[BalanceTerms({"kd": 0.4, "hint": 0.1})])
    ```
    """

    def __init__(self, shares, *, by="gradient", data=None, batches=8, verbose=1):
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
        if not int(self._measured.numpy()):  # a resumed `fit` has loaded it by now
            with self.model.distribute_strategy.scope():
                self._balance()
        self._measured.assign(1)

    def on_epoch_end(self, epoch, logs=None):
        for name, variable in self._variables.items():
            logs[f"{name}_weight"] = float(variable.numpy())

    def _take_weights(self, distiller):
        """Makes each weight a variable that the distiller saves."""
        terms = {term.name: term for term in distiller.terms}
        for name in self.shares:
            _check_term(name, terms)
        fixed = [name for name in self.shares if schedules.is_number(terms[name].weight)]
        with distiller.distribute_strategy.scope():
            for name in fixed:
                terms[name].weight = _variable(terms[name].weight, f"{name}_weight")
            if not hasattr(distiller, "balanced"):
                distiller.balanced = _variable(0, "balanced")
        self._measured = distiller.balanced
        self._measured.assign(0)
        self._variables = {name: terms[name].weight for name in self.shares}
        for variable in self._variables.values():
            variable.trainable = False  # Keras's default for a variable that a user made
        distiller.balanced_weights = self._variables
        if fixed and distiller.train_function is not None:
            distiller.make_train_function(force=True)  # it had the numbers

    def _balance(self):
        sizes = self._sizes()
        step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        alpha = schedules.number_at(self.model._share(), step)
        weights = {t.name: schedules.number_at(t.weight, step) for t in self.model.terms}
        for name, weight in self._solved(sizes, alpha, weights).items():
            self._variables[name].assign(weight)
        if self.verbose:
            found = ", ".join(
                f"{name} {float(v.numpy()):.4g}" for name, v in self._variables.items()
            )
            print(f"Weights by {self.by}: {found}")

    def _solved(self, sizes, alpha, weights):
        """The weights that give every named term its share."""
        least = 1e-6 * max(sizes.values())  # below it is rounding
        bad = [name for name in self.shares if not least < sizes[name] < float("inf")]
        if alpha == 0 or bad:
            what = f"the {self.by} of `{bad[0]}` is {sizes[bad[0]]:.4g}" if bad else "`alpha` is 0"
            raise ValueError(f"No weight can give a share: {what} at the start of training.")
        parts = {name: alpha * weights[name] * sizes[name] for name in weights}
        rest = sum(part for name, part in parts.items() if name not in self.shares)
        rest += (1 - alpha) * sizes.get("label_loss", 0.0)
        named, shared = sum(parts[name] for name in self.shares), sum(self.shares.values())
        _check_rest(rest, shared, self.shares)
        total = rest / (1 - shared) if rest > 0 else named or alpha
        return {name: share * total / (alpha * sizes[name]) for name, share in self.shares.items()}

    def _sizes(self):
        """What each part contributes at weight 1: `{name: mean over batches}`."""
        distiller = self.model
        data = [distiller.first_batch] if self.data is None else self._taken()
        bar = keras.utils.Progbar(len(data), verbose=self.verbose, unit_name="batch")
        found, measure = [], _measuring(distiller, self.by)
        kept = [(variable, variable.numpy()) for variable in building.state(distiller)]
        try:
            for number, batch in enumerate(data):
                found.append(measure(batch))
                bar.update(number + 1)
        finally:
            for variable, value in kept:
                variable.assign(value)
        return {name: float(np.mean([sizes[name] for sizes in found])) for name in found[0]}

    def _taken(self):
        found = [Batch.unpack(data) for data in itertools.islice(self.data, self.batches)]
        if not found:
            raise ValueError("`data` must hold at least one batch. Received: an empty dataset")
        return found


def _check_term(name, terms):
    if name not in terms:
        raise ValueError(
            f"`shares` names terms of the distiller. Received: `{name}`. There are: "
            f"{', '.join(terms)}."
        )
    weight = terms[name].weight
    if not schedules.is_number(weight) and not isinstance(weight, keras.Variable):
        raise ValueError(
            f"The weight of `{name}` is a schedule, which cannot be set: give the term a number, "
            "or no share."
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


def _variable(value, name):
    return keras.Variable(float(value), trainable=False, dtype="float32", name=name)


def _measuring(distiller, by):
    """A function of a batch: what each part contributes at weight 1, `{name: scalar}`."""
    strategy = distiller.distribute_strategy

    def measure(batch):
        parts, gradients = _parts(distiller, batch)
        return parts if by == "loss" else {n: _norm(each) for n, each in gradients.items()}

    @tf.function(reduce_retracing=True)
    def traced(batch):
        return strategy.run(measure, args=(batch,))

    def measured(batch):
        sizes = traced(batch)  # of one replica: its share of the batch on all of them
        first = {name: strategy.experimental_local_results(v)[0] for name, v in sizes.items()}
        return {name: abs(float(v)) * strategy.num_replicas_in_sync for name, v in first.items()}

    return measured


def _parts(distiller, batch):
    """The terms and the label loss, and their gradients."""
    variables = distiller.student.trainable_variables
    with tf.GradientTape(persistent=True) as tape, schedules.at(distiller.optimizer.iterations):
        features = distiller._features(batch, training=True)
        with tape.stop_recording():
            targets = distiller._targets(batch, features)
        measured = distiller._measure(features, targets, batch)
        parts = {term.name: global_mean(*values) for term, values in measured.items()}
        if distiller._compile_loss is not None:
            output = features["output"]
            parts["label_loss"] = distiller._label_loss(batch.labels, output, batch.sample_weight)
    return parts, {name: tape.gradient(part, variables) for name, part in parts.items()}


def _norm(gradients):
    dense = [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]
    return tf.linalg.global_norm(dense) if dense else tf.zeros(())
