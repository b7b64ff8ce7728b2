"""The guard of updates on TensorFlow, where a fault can stop a step in the middle."""

import re
import warnings

import keras
import tensorflow as tf

from keras_distill._keras.epochs import rest_of
from keras_distill.training.guard import fault_of, knobs_of

MOST = 61  # the bits of an int64, less one for the gradients and one for the sign


class Guard:
    """Remembers the first step whose total or gradients were not finite.

    It is a plain object: its variables are in no checkpoint. Tracing the step names the `culprits`.
    Bit `i` of `fault` stands for the `i`-th culprit.

    Args:
        halts: whether a fault stops the step at once. This costs a step least, since no part of the
            update is in a branch. XLA knows no assertions and replicas must agree first, so they do
            not halt.
    """

    def __init__(self, halts):
        self.halts, self._may_halt = halts, halts
        self.culprits, self.warns = [], False
        self.step, self.fault = (
            tf.Variable(
                0,
                trainable=False,
                dtype=tf.int64,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
            for _ in range(2)
        )

    def begin(self, warns):
        """Forgets faults of an earlier training; returns whether the step must be traced again.

        Args:
            warns: whether a fault only warns, since a callback ends the training.
        """
        changed, self.warns = self.warns != warns, warns
        self.halts = self._may_halt and not warns
        for fault in _components(self.fault):
            fault.assign(0)
        return changed

    def update(self, optimizer, gradients, variables, restored, total, suspects):
        """Applies the gradients if all is finite; else restores the state and records the culprits.

        Args:
            optimizer: the optimizer. If it scales the loss, it judges the gradients itself.
            gradients, variables: the arguments of `optimizer.apply_gradients`.
            restored: variables that the forward pass has changed, with their values before.
            total: the scalar to minimize.
            suspects: `{name: structure of tensors}`, which only a fault reads. Every step checks a
                `Knob` that stands in the place of a name.
        """
        given = suspects
        suspects = {name: _floats(value) for name, value in list(suspects.items())[:MOST]}
        self.culprits = [*suspects, "the gradients"]
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        fine = _finite([total, *knobs_of(given)])
        fine = tf.logical_and(fine, scaled or _all_finite(gradients))
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            bad = context.all_reduce("SUM", tf.cast(tf.logical_not(fine), tf.int32))
            fine = tf.equal(bad, 0)
        fine = tf.logical_and(fine, tf.equal(self.fault.read_value(), 0))  # a fault lasts
        step = optimizer.iterations

        def apply(gradients):
            optimizer.apply_gradients(zip(gradients, variables))

        def skip(state, suspects):
            for variable, value in zip(restored[0], state):
                variable.assign(value)
            self._note(step, suspects)

        skipped = restored[1], list(suspects.values())
        if self.halts:
            with tf.control_dependencies([_halt(fine, skip, skipped)]):
                apply(gradients)
        else:
            _choose(context, fine, apply, (gradients,), skip, skipped)

    def _note(self, step, suspects):
        bits = [tf.cast(tf.logical_not(_finite(s)), tf.int64) * (1 << i)
                for i, s in enumerate(suspects)]  # fmt: skip
        found = tf.add_n(bits)
        found = tf.where(found > 0, found, tf.constant(1 << len(suspects), tf.int64))
        first = tf.equal(self.fault.read_value(), 0)
        self.step.assign(tf.where(first, tf.cast(step, tf.int64), self.step.read_value()))
        self.fault.assign(tf.where(first, found, self.fault.read_value()))

    def watch(self, function, steps):
        """Returns a train function of `steps` steps that raises a fault after each call."""

        def watched(iterator):
            try:
                logs = function(rest_of(iterator, steps))
            except tf.errors.InvalidArgumentError as error:
                self.check()
                _raise_in_words(error)
                raise
            if not self.halts:
                self.check()
            return logs

        return watched

    def check(self):
        """Raises the fault since the last check, on any replica."""
        faults = [int(fault.numpy()) for fault in _components(self.fault)]
        if not any(faults):
            return
        step = int(_components(self.step)[0].numpy())
        for fault in _components(self.fault):
            fault.assign(0)
        names = [name for i, name in enumerate(self.culprits) if any(f >> i & 1 for f in faults)]
        if len(names) > 1 and names[-1] == self.culprits[-1]:
            names.pop()  # the replica has no culprit of its own
        if not self.warns:
            raise fault_of(names, step)
        warnings.warn(str(fault_of(names, step)), stacklevel=3)


def _choose(context, fine, update, updated, skip, skipped):
    """Runs `update(*updated)` or `skip(*skipped)`; a merging optimizer runs across replicas."""
    if not tf.distribute.has_strategy():  # a strategy of one replica merges, too
        tf.cond(fine, lambda: _done(update(*updated)), lambda: _done(skip(*skipped)))
        return

    def across(strategy, fine, updated, skipped):
        each = strategy.extended.call_for_each_replica
        tf.cond(
            strategy.experimental_local_results(fine)[0],
            lambda: _done(each(update, args=updated)),
            lambda: _done(each(skip, args=skipped)),
        )

    context.merge_call(across, args=(fine, updated, skipped))


def _halt(fine, skip, skipped):
    """Returns an operation that fails after `skip(*skipped)`, unless all is fine."""
    noted = tf.cond(fine, lambda: tf.constant(0), lambda: _done(skip(*skipped)))
    with tf.control_dependencies([noted]):
        return tf.debugging.Assert(fine, ["not finite"])


def _done(_):
    return tf.constant(0)


def _components(variable):
    return getattr(variable, "values", None) or (variable,)


def _floats(structure):
    return [t for t in keras.tree.flatten(structure) if tf.is_tensor(t) and t.dtype.is_floating]


def _finite(tensors):
    return tf.reduce_all([True, *(tf.reduce_all(tf.math.is_finite(t)) for t in tensors)])


def _all_finite(gradients):
    """Returns whether the sum of all squares is finite in float32, by one cheap pass.

    Gradients above 1e19 count as infinite, since their squares overflow, as Adam's moments do.
    """
    tensors = [getattr(g, "values", g) for g in gradients if g is not None]
    squares = [tf.nn.l2_loss(tf.cast(t, tf.float32)) for t in tensors]
    return tf.math.is_finite(tf.add_n(squares)) if squares else tf.constant(True)


def _raise_in_words(error):
    """Rewords TensorFlow's error for class ids out of range, which a CPU finds early."""
    pattern = r"label value of (-?\d+) which is outside the valid range of (\[\d+, \d+\))"
    found = re.search(pattern, str(error))
    if found:
        message = f"Labels must be class ids in {found[2]}. Received: {found[1]}."
        raise ValueError(message) from error
