"""The logs of a distiller: the judged model's own loss and metrics, and a mean of each term."""

import keras
from keras import ops, tree

from keras_distill import _backend
from keras_distill._keras import trainer
from keras_distill.batch import labels_of
from keras_distill.training import replicas
from keras_distill.training.outputs import one_each, run

LABEL_LOSS = ("label_loss", "distillation_label_loss")  # the second if the first is taken


class Scores:
    """Updates and reads the metrics of a step, on any backend.

    Args:
        objective: the `Objective`.
        scope: a function without arguments that returns the scope in which means are made.
    """

    def __init__(self, objective, scope):
        self.objective, self._scope = objective, scope
        self.label, self.means = None, {}

    @property
    def judged(self):
        """The model whose compiled loss and metrics count."""
        return self.objective.judged

    def follow_terms(self):
        """Makes a mean for each term and one for the label loss; without terms there are none."""
        names = [term.name for term in self.objective.terms]
        with self._scope():
            self.means = {n: self.means.get(n) or keras.metrics.Mean(name=n) for n in names}
            self.label = self._label_mean() if names else None

    def _label_mean(self):
        """Returns the existing mean, which a traced step may hold, unless its name is taken now."""
        name, kept = self._label_name(), self.label is not None
        return self.label if kept and self.label.name == name else keras.metrics.Mean(name=name)

    def _label_name(self):
        outputs = getattr(self.judged, "output_names", None) or ()
        taken = {f"{name}_loss" for name in outputs}
        taken |= {getattr(m, "name", m) for m in tree.flatten(self.objective.compiled_metrics)}
        return LABEL_LOSS[LABEL_LOSS[0] in taken]

    def own(self):
        """Returns the means of this distiller, in the order of the logs."""
        return [*([] if self.label is None else [self.label]), *self.means.values()]

    def metrics(self, evaluates):
        """Returns the metrics that logs report; in evaluation only those of the judged model."""
        metrics = self.judged.metrics
        if not evaluates:
            return [*metrics, *self.own()]
        loss = trainer.loss_tracker(self.judged)
        return [metric for metric in metrics if self.objective.loses or metric is not loss]

    def build(self, batch, output):
        """Makes the variables of the compiled loss and metrics, from a batch and its output."""
        trainer.build_judged(self.judged, one_each(labels_of(batch.labels), output), output,
                             labels_of(batch.sample_weight), batch.x)  # fmt: skip

    def track(self, batch, outcome):
        """Updates the logs of a training step, and returns them."""
        size = _size(batch)
        trainer.add_to_mean(trainer.loss_tracker(self.judged), _reported(outcome.total), size)
        if self.label is not None and outcome.label is not None:
            trainer.add_to_mean(self.label, _reported(outcome.label), size)
        for name, (values, counts) in outcome.measured.items():
            count = ops.sum(counts)
            mean = ops.divide_no_nan(ops.sum(values * counts), count)
            trainer.add_to_mean(self.means[name], mean, count)
        logs = self.compute_metrics(batch.x, batch.labels, outcome.output, batch.sample_weight)
        for name in self.means:
            if name in logs:
                raise ValueError(
                    f"A metric of the student is also named `{name}`. Give the term another `name`."
                )
        return {**logs, **{mean.name: mean.result() for mean in self.own()}}

    def judge(self, batch):
        """Measures a batch for `evaluate`, as the judged model's own `test_step` does."""
        x = self.objective.judged_inputs(batch)
        output = run(self.judged, x, training=False)
        if self.objective.loses:
            loss = self._judged_loss(batch, x, output)
            trainer.add_to_mean(trainer.loss_tracker(self.judged), loss, _size(batch))
        logs = self.compute_metrics(x, batch.labels, output, batch.sample_weight)
        return logs if self.objective.loses else {k: v for k, v in logs.items() if k != "loss"}

    def _judged_loss(self, batch, x, output):
        """Returns the label loss and regularization of the batch of all replicas."""
        if not replicas.are_several() or trainer.overrides(self.judged, "compute_loss"):
            loss = self.compute_loss(x, batch.labels, output, batch.sample_weight, training=False)
            return _reported(trainer.total_of_replicas(loss))
        labels, weight = one_each(labels_of(batch.labels), output), labels_of(batch.sample_weight)
        loss = replicas.label_loss(self.judged, labels, output, weight)
        added = replicas.total(sum(trainer.added_losses(self.judged), ops.zeros(())))
        return (_reported(loss) if len(loss.shape) else replicas.total(loss)) + added

    def compute_loss(self, x, y, y_pred, sample_weight, training):
        """Returns the judged model's label loss and regularization."""
        labels = one_each(labels_of(y), y_pred)
        return trainer.compute_loss(
            self.judged, x, labels, y_pred, labels_of(sample_weight), training
        )

    def compute_metrics(self, x, y, y_pred, sample_weight):
        """Updates the judged model's metrics, and returns its logs."""
        labels = one_each(labels_of(y), y_pred)
        return self.judged.compute_metrics(x, labels, y_pred, labels_of(sample_weight))


def _size(batch):
    return ops.shape(next(part for part in tree.flatten(batch.x) if part is not None))[0]


def _reported(loss):
    """Returns the reported loss; with `reduction=None` this is the mean, as in Keras."""
    return ops.mean(loss) if len(loss.shape) else loss


def per_worker(logs):
    """Gives logs an axis, since Keras averages over it under several workers."""
    if _backend.NAME != "tensorflow" or trainer.runs_on_workers():
        return logs
    import tensorflow as tf

    if not isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
        return logs
    return tree.map_structure(lambda value: tf.reshape(value, (1,)), logs)
