"""The train step on TensorFlow: a graph, on one device or on the replicas of `tf.distribute`."""

import functools
import warnings

import keras
import tensorflow as tf

from keras_distill import schedules
from keras_distill._keras import epochs, trainer
from keras_distill.batch import Batch, Supervision
from keras_distill.training import replicas
from keras_distill.training.guard_tensorflow import Guard
from keras_distill.training.scores import per_worker

LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)


class Step:
    """The TensorFlow part of a distiller: its train, test and predict steps."""

    _form = None  # the form of the data of the last `fit`

    def new_guard(self):
        """Returns the guard of updates; it stops a step, except under XLA and on replicas."""
        with self.distribute_strategy.scope():
            alone = trainer.strategy_of(self) is None
            return Guard(halts=alone and not self.jit_compile)

    def look_first(self, iterator=None, data_batch=None):
        """Looks at the first batch (on replicas at a part of it), and builds what is missing."""
        strategy = trainer.strategy_of(self)
        if strategy is None:
            if iterator is not None:
                self._follow_form(_form(epochs.spec_of(iterator)))
            if self.look_is_due and not (data_batch is None and epochs.is_steered(iterator)):
                self.look(epochs.begin_early(iterator) if data_batch is None else data_batch)
            self.go_to_place(iterator)
            return
        several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        if several and self.steps_per_execution > 1:
            raise ValueError(
                "`steps_per_execution` must be 1 on several workers, because Keras's loop of steps "
                f"does not run there. Received: steps_per_execution={self.steps_per_execution}"
            )
        if iterator is not None:  # Keras itself looks at a batch here
            data_batch = keras.tree.map_structure(_local, epochs.peek(iterator))
        with strategy.scope():
            if self.look_is_due:
                self.look(data_batch)
            trainer.build_compiled(self, data_batch)
        self.go_to_place(iterator, functools.partial(keras.tree.map_structure, _local))

    def _follow_form(self, form):
        """Requires a new look and a new step if a later `fit` has data of another form.

        Keras would trace one step for both forms, in which shapes are unknown.
        """
        if self.mode == "train" and self._form not in (None, form):
            self._look_due, self.train_function = True, None
        self._form = form

    def train_step(self, data):
        """Trains on one batch, or on a replica's part of it."""
        batch, objective, optimizer = self.unpacked(data), self.objective, self.optimizer
        if trainer.overrides(self.judged, "train_step"):  # and there are no terms
            return per_worker(self.judged.train_step(batch.packed(objective.judged_inputs(batch))))
        before = [tf.identity(v.value) for v in objective.state()] if objective.teaches else []
        step = 0 if optimizer is None else optimizer.iterations
        with schedules.at(step):
            targets = objective.targets(batch)
        with tf.GradientTape() as tape:
            outcome = objective.forward(batch, targets, step)
            scaled = outcome.total if optimizer is None else optimizer.scale_loss(outcome.total)
        variables = objective.trained(self.trainable_variables)
        if variables:
            self._update(tape.gradient(scaled, variables), variables, before, outcome, targets)
        else:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
        return per_worker(self.scores.track(batch, _of_all_replicas(outcome)))

    def _update(self, gradients, variables, before, outcome, targets):
        """Makes one update if total and gradients are finite; at `alpha=0` it is Keras's."""
        optimizer, objective = self.optimizer, self.objective
        count = tf.identity(optimizer.iterations) if optimizer.built else 0
        if objective.teaches:
            step = optimizer.iterations
            suspects = objective.suspects(outcome.label, outcome.measured, targets, step)
            restored = objective.state(), before
            gradients = replicas.shares(optimizer, gradients)
            self.guard.update(optimizer, gradients, variables, restored, outcome.total, suspects)
        else:
            optimizer.apply_gradients(zip(gradients, variables))
        objective.update(trainer.has_updated(optimizer, count))

    def test_step(self, data):
        """Runs the student's own test step."""
        batch = self.unpacked(data)
        if trainer.overrides(self.judged, "test_step"):
            x = self.objective.judged_inputs(batch)
            return per_worker(self.judged.test_step(batch.packed(x)))
        return per_worker(self.scores.judge(batch))

    def predict_step(self, data):
        """Runs the student's own predict step."""
        if not trainer.overrides(self.student, "predict_step"):
            return super().predict_step(data)
        batch = Batch.unpack(data)
        return self.student.predict_step(batch.packed(self.objective.inputs(batch.x)))

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            super().make_train_function(force)
            run = self.guard.watch(self.train_function, self.steps_per_execution)
            run = self._with_others(run)
            self.train_function = lambda iterator: run(self._looked_at(iterator))

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            super().make_test_function(force)
            self.test_function = self._with_others(self.test_function)

    def _with_others(self, function):
        """Wraps a function for all workers, so that its error says if one of them is gone."""
        if not trainer.is_one_of_workers(self):
            return function

        def run(iterator):
            try:
                return function(iterator)
            except LOST as error:
                raise RuntimeError(
                    "Another worker has ended or cannot be reached, so this worker cannot "
                    "continue. Restart all workers. With `callbacks.Resume` they continue from "
                    "the last checkpoint."
                ) from error

        return run

    def _looked_at(self, iterator):
        """Looks at the first batch if the data were not read before, and puts it back."""
        if self.look_is_due:
            iterator = epochs.Opened(iterator, next(iterator))
            self.look(iterator.batch)
        return iterator

    def sizes(self, by):
        """Returns a function of a `Batch` that gives each part's size at weight 1, `{name: float}`.

        Args:
            by: `"loss"` for the parts' values, `"gradient"` for the norms of their gradients.
        """
        strategy, objective = self.distribute_strategy, self.objective

        def measure(batch):
            variables = self.student.trainable_variables
            with schedules.at(self.optimizer.iterations):
                targets = objective.targets(batch)
                with tf.GradientTape(persistent=True) as tape:
                    parts = objective.parts(batch, targets)
            if by == "loss":
                return parts
            return {name: _norm(tape.gradient(part, variables)) for name, part in parts.items()}

        @tf.function(reduce_retracing=True)
        def traced(batch):
            return strategy.run(measure, args=(batch,))

        def measured(batch):
            state = [(variable, variable.numpy()) for variable in objective.state()]
            found = traced(batch)  # one replica's: its share of the batch on all of them
            for variable, value in state:
                variable.assign(value)
            found = {n: strategy.experimental_local_results(v)[0] for n, v in found.items()}
            return {n: abs(float(v)) * strategy.num_replicas_in_sync for n, v in found.items()}

        return measured


def _form(spec):
    """Returns the dtypes and ranks of a batch, and the last axes of its targets."""
    y = spec[1] if isinstance(spec, tuple) and len(spec) > 1 else None
    targets = keras.tree.flatten(y.targets) if isinstance(y, Supervision) else []
    parts = [*keras.tree.flatten(spec), *targets]
    shapes = [getattr(part, "shape", tf.TensorShape(None)) for part in parts]
    last = [shape[-1] for shape in shapes[len(shapes) - len(targets):] if shape.rank]
    dtypes = [str(getattr(part, "dtype", type(part))) for part in parts]
    return dtypes, [shape.rank for shape in shapes], last


def _of_all_replicas(outcome):
    """Returns the outcome for the logs, from each replica's part of total and label loss."""
    label = outcome.label if outcome.label is None else replicas.total(outcome.label)
    return outcome._replace(total=replicas.total(outcome.total), label=label)


def _norm(gradients):
    dense = [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]
    return tf.linalg.global_norm(dense) if dense else tf.zeros(())


def _local(value):
    """Returns a value as the first replica has it."""
    if isinstance(value, tf.experimental.Optional):
        return None
    if isinstance(value, tf.distribute.DistributedValues):
        return value.values[0]
    return value
