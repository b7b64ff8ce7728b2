"""The train step on JAX: state in, state out, under `jax.jit`."""

import warnings

import jax
import keras
from keras import tree

from keras_distill import schedules
from keras_distill._keras import epochs, trainer
from keras_distill.batch import Batch
from keras_distill.training.guard import Guard, knobs_of

RECORD = "_guard_record"  # a key of the logs, between the compiled step and the train function


class Step:
    """The JAX part of a distiller: its train, test and predict steps.

    A `StatelessScope` replaces the variables, so the objective sees no state. Every variable that
    the first look has read is part of the state, so a teacher's weights are no constants of the
    compiled step.
    """

    data_may_ask = False  # whether a `PyDataset` may run the student, as `data.OnPolicy` does

    def new_guard(self):
        """Returns the guard of updates, which chooses the new or the old state without waiting."""
        return Guard()

    @property
    def non_trainable_variables(self):
        """Keras's variables and, in training, all others that a step reads."""
        own = super().non_trainable_variables
        if self.mode != "train" or self.guard is None:
            return own
        known = {id(v) for v in (*own, *self.trainable_variables)}
        riders = {**self.objective.read, id(self.guard.record): self.guard.record}
        known |= {id(v) for v in (*self.optimizer_variables(), *self.metrics_variables)}
        return own + [variable for key, variable in riders.items() if key not in known]

    def optimizer_variables(self):
        """The optimizer's variables, or none."""
        return [] if self.optimizer is None else self.optimizer.variables

    def look_first(self, iterator=None, data_batch=None):
        """Looks at the first batch, and builds the layers that are not built yet."""
        if self.mode == "train":
            self.data_may_ask = iterator is not None and epochs.is_steered(iterator)
        if self.look_is_due:
            data_batch = epochs.first_batch(self, iterator) if data_batch is None else data_batch
            self.look(data_batch)
        with trainer.optimizer_left(self, self.mode != "train"):
            self.build_as_keras(iterator, data_batch)
        self.go_to_place(iterator)

    def groups(self):
        """Returns the groups of variables in the state, in Keras's order."""
        return (self.trainable_variables, self.non_trainable_variables, self.optimizer_variables(),
                self.metrics_variables)  # fmt: skip

    def train_step(self, state, data):
        """Trains on one batch; returns `(logs, new state)`."""
        batch, objective, optimizer = self.unpacked(data), self.objective, self.optimizer
        groups = self.groups()
        if trainer.overrides(self.judged, "train_step"):  # and there are no terms
            place = _place(self.non_trainable_variables, self.guard.record)
            own = (*_state(self.judged), groups[2], self.judged.metrics_variables)
            logs, new = self._own_step(self.judged.train_step, own, groups, state, batch)
            return {**logs, RECORD: new[1][place]}, new
        trained = groups[0]
        others = groups[1] + groups[3]  # the loss of several outputs tracks the loss of each
        mapping = [pair for group, values in zip(groups, state) for pair in zip(group, values)]
        with keras.StatelessScope(mapping), schedules.at(optimizer.iterations):
            targets = objective.targets(batch)

        def loss(values):
            scope = keras.StatelessScope([*mapping, *zip(trained, values)], collect_losses=True)
            with scope:
                outcome = objective.forward(batch, targets, optimizer.iterations)
                scaled = keras.ops.sum(optimizer.scale_loss(outcome.total))
            return scaled, (outcome, [scope.get_current_value(v) for v in others])

        gradients, (outcome, moved) = jax.grad(loss, has_aux=True)(list(state[0]))
        with keras.StatelessScope([*mapping, *zip(others, moved)]) as scope:
            self._update(gradients, trained)
            logs = self.scores.track(batch, outcome)
        new = tuple([scope.get_current_value(v) for v in group] for group in groups)
        return self._guarded(logs, new, state, outcome, gradients, (mapping, targets))

    def _update(self, gradients, trained):
        optimizer, objective = self.optimizer, self.objective
        known = {id(variable) for variable in objective.trained(trained)}
        pairs = [(g, v) for g, v in zip(gradients, trained) if id(v) in known]
        if not pairs:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
            return
        count = keras.ops.convert_to_tensor(optimizer.iterations)
        if len(pairs) < len(trained):
            gradients = [g if id(v) in known else None for g, v in zip(gradients, trained)]
        # As in Keras: an optimizer that scales the loss branches, and a branch must not assign to a
        # scope.
        before = [[v.value for v in group] for group in (optimizer.variables, trained)]
        weights, state = optimizer.stateless_apply(before[0], gradients, before[1])
        for variable, value in zip([*trained, *optimizer.variables], [*weights, *state]):
            variable.assign(value)
        objective.update(trainer.has_updated(optimizer, count))

    def _guarded(self, logs, new, old, outcome, gradients, seen):
        """Returns the new state, or the old one after a fault, until the fault is raised."""
        record_at = _place(self.non_trainable_variables, self.guard.record)
        record = old[1][record_at]
        if not self.objective.teaches:  # else XLA would fuse, and round, in other places
            return {**logs, RECORD: record}, new
        mapping, targets = seen
        with keras.StatelessScope(mapping):
            step = keras.ops.convert_to_tensor(self.optimizer.iterations)
            suspects = self.objective.suspects(outcome.label, outcome.measured, targets, step)
            scales = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
            judged = [] if scales else gradients
            fine = self.guard.fine(outcome.total, judged, knobs_of(suspects))
            noted = self.guard.noted(suspects, step)
        first = jax.numpy.logical_and(record[0] == 0, jax.numpy.logical_not(fine))
        record = jax.numpy.where(first, noted, record)
        state = tuple(_chosen(record[0] == 0, n, list(o)) for n, o in zip(new[:3], old[:3]))
        state[1][record_at] = record
        return {**logs, RECORD: record}, (*state, new[3])

    def test_step(self, state, data):
        """Runs the student's own test step; returns `(logs, new state)`."""
        batch = self.unpacked(data)
        groups = (self.trainable_variables, self.non_trainable_variables, self.metrics_variables)
        if trainer.overrides(self.judged, "test_step"):
            own = (*_state(self.judged), self.judged.metrics_variables)
            return self._own_step(self.judged.test_step, own, groups, state, batch)
        mapping = [pair for group, values in zip(groups, state) for pair in zip(group, values)]
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            logs = self.scores.judge(batch)
        return logs, tuple([scope.get_current_value(v) for v in group] for group in groups)

    def predict_step(self, state, data):
        """Runs the student's own predict step; returns `(outputs, new other variables)`."""
        if not trainer.overrides(self.student, "predict_step"):
            return super().predict_step(state, data)
        groups = (self.trainable_variables, self.non_trainable_variables)

        def step(state, data):
            outputs, moved = self.student.predict_step(state, data)
            return outputs, (state[0], moved)

        batch = Batch.unpack(data)
        outputs, new = self._own_step(step, _state(self.student), groups, state, batch)
        return outputs, new[1]

    def _own_step(self, step, own, groups, state, batch):
        """Runs a step of the student's own with the variables `own`, out of those in `groups`."""
        values = {id(v): n for group, held in zip(groups, state) for v, n in zip(group, held)}
        given = tuple([values[id(v)] for v in group] for group in own)
        found, new = step(given, batch.packed(self.objective.inputs(batch.x)))
        values.update((id(v), n) for group, held in zip(own, new) for v, n in zip(group, held))
        return found, tuple([values[id(v)] for v in group] for group in groups)

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return
        super().make_train_function(force)
        step = self.train_function

        def watched(state, iterator):
            self.guard.check(leave=1)  # the newest may not be computed yet
            try:
                iterator = self._answered(state, iterator) if self.data_may_ask else iterator
                logs, state = step(state, iterator)
            except Exception:
                self.give_back(state)
                raise
            self.guard.pending.append(logs.pop(RECORD))
            return logs, state

        self.train_function = watched

    def _answered(self, state, iterator):
        """Iterates over the batches of a step when a `PyDataset` may run the student.

        Keras has taken the values out of all variables. The state holds them meanwhile.
        """
        pairs = [pair for group, values in zip(self.groups(), state) for pair in zip(group, values)]
        with keras.StatelessScope(pairs):
            return iter([batch for _, batch in zip(range(self.steps_per_execution), iterator)])

    def give_back(self, state):
        """Puts the values back into variables after an error in the first trace."""
        for group, values in zip(self.groups(), state):
            for variable, value in zip(group, values):
                if not value.is_deleted():
                    variable.assign(value)

    def jax_state_sync(self):
        super().jax_state_sync()
        if self.guard is not None:
            self.guard.check()

    def sizes(self, by):
        """Returns a function of a `Batch` that gives each part's size at weight 1, `{name: float}`.

        Args:
            by: `"loss"` for the parts' values, `"gradient"` for the norms of their gradients.
        """
        objective, variables = self.objective, self.student.trainable_variables

        def parts(values, batch, targets):
            with keras.StatelessScope([*zip(variables, values)], collect_losses=True):
                with schedules.at(self.optimizer.iterations):
                    return objective.parts(batch, targets)

        def measured(batch):
            values = [variable.value for variable in variables]
            with keras.StatelessScope(), schedules.at(self.optimizer.iterations):
                targets = objective.targets(batch)
            if by == "loss":
                return {n: abs(float(v)) for n, v in parts(values, batch, targets).items()}
            found = jax.jacrev(parts)(values, batch, targets)
            return {name: float(_norm(each)) for name, each in found.items()}

        return measured


def _state(model):
    return model.trainable_variables, model.non_trainable_variables


def _norm(gradients):
    return jax.numpy.sqrt(sum(jax.numpy.sum(gradient**2) for gradient in gradients))


def _place(variables, wanted):
    return next(index for index, variable in enumerate(variables) if variable is wanted)


def _chosen(fine, new, old):
    """Returns `new` if all is fine, else `old`, for every array that has changed."""
    return tree.map_structure(lambda n, o: n if n is o else jax.numpy.where(fine, n, o), new, old)
