"""The train step on PyTorch: eager, or as `torch.compile` makes it."""

import warnings

import keras
import torch

from keras_distill import schedules
from keras_distill._keras import epochs, trainer
from keras_distill.batch import Batch
from keras_distill.training.guard import Guard, knobs_of


class Step:
    """The PyTorch part of a distiller: its train, test and predict steps."""

    def new_guard(self):
        """Returns the guard of updates, which raises within the step."""
        return Guard()

    def look_first(self, iterator=None, data_batch=None):
        """Looks at the first batch, and builds the layers that are not built yet."""
        if self.look_is_due:
            with torch.no_grad():
                data_batch = (
                    epochs.first_batch(self, iterator) if data_batch is None else data_batch
                )
                self.look(data_batch)
        with trainer.optimizer_left(self, self.mode != "train"):
            self.build_as_keras(iterator, data_batch)
        self.go_to_place(iterator)

    def train_step(self, data):
        """Trains on one batch."""
        batch, objective, optimizer = self.unpacked(data), self.objective, self.optimizer
        if trainer.overrides(self.judged, "train_step"):  # and there are no terms
            return self.judged.train_step(batch.packed(objective.judged_inputs(batch)))
        step = 0 if optimizer is None else optimizer.iterations
        with torch.no_grad(), schedules.at(step):
            targets = objective.targets(batch)
        before = [v.value.clone() for v in objective.state()] if objective.teaches else []
        variables = objective.trained(self.trainable_variables)
        for variable in variables:  # `zero_grad` does not know projectors that were added late
            variable.value.grad = None
        outcome = objective.forward(batch, targets, step)
        if variables:
            scaled = outcome.total if optimizer is None else optimizer.scale_loss(outcome.total)
            scaled.backward()
            gradients = [variable.value.grad for variable in variables]
            with torch.no_grad():
                self._update(gradients, variables, before, outcome, targets)
        else:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
        with torch.no_grad():
            return self.scores.track(batch, outcome)

    def _update(self, gradients, variables, before, outcome, targets):
        """Makes one update if total and gradients are finite; at `alpha=0` it is Keras's."""
        optimizer, objective = self.optimizer, self.objective
        count = int(optimizer.iterations) if optimizer.built else 0
        fault = self._fault(gradients, outcome, targets) if objective.teaches else None
        if fault is not None:
            for variable, value in zip(objective.state(), before):
                variable.assign(value)
            self.guard.raise_if(fault)
            return
        optimizer.apply(gradients, variables)
        objective.update(trainer.has_updated(optimizer, count))

    def _fault(self, gradients, outcome, targets):
        """Returns the guard's record of values that are not finite, or `None`."""
        step = self.optimizer.iterations
        suspects = self.objective.suspects(outcome.label, outcome.measured, targets, step)
        scales = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
        judged = [] if scales else gradients
        if bool(self.guard.fine(outcome.total.detach(), judged, knobs_of(suspects))):
            return None
        return self.guard.noted(suspects, step)

    def test_step(self, data):
        """Runs the student's own test step."""
        batch = self.unpacked(data)
        if trainer.overrides(self.judged, "test_step"):
            x = self.objective.judged_inputs(batch)
            return self.judged.test_step(batch.packed(x))
        return self.scores.judge(batch)

    def predict_step(self, data):
        """Runs the student's own predict step."""
        if not trainer.overrides(self.student, "predict_step"):
            return super().predict_step(data)
        batch = Batch.unpack(data)
        return self.student.predict_step(batch.packed(self.objective.inputs(batch.x)))

    def sizes(self, by):
        """Returns a function of a `Batch` that gives each part's size at weight 1, `{name: float}`.

        Args:
            by: `"loss"` for the parts' values, `"gradient"` for the norms of their gradients.
        """

        def measured(batch):
            objective = self.objective
            state = [(variable, variable.value.clone()) for variable in objective.state()]
            with schedules.at(self.optimizer.iterations):
                with torch.no_grad():
                    targets = objective.targets(batch)
                parts = objective.parts(batch, targets)
            with torch.no_grad():
                for variable, value in state:
                    variable.assign(value)
            if by == "loss":
                return {name: abs(float(part)) for name, part in parts.items()}
            values = [variable.value for variable in self.student.trainable_variables]
            return {name: _norm(part, values) for name, part in parts.items()}

        return measured


def _norm(part, values):
    found = torch.autograd.grad(part, values, retain_graph=True, allow_unused=True)
    return float(sum(torch.sum(gradient**2) for gradient in found if gradient is not None) ** 0.5)
