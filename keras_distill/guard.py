"""Skips an update that is not finite, and says at the batch's end what it was."""

import re

import tensorflow as tf


class Guard:
    """Remembers the first step whose total or gradients were not finite.

    A plain object: its variables are in no checkpoint. `culprits` are named when the step is
    traced; bit `i` of `fault` stands for the `i`-th.
    """

    def __init__(self):
        self.culprits = []
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

    def apply(self, update, undo, *, step, total, gradients, suspects):
        """Runs `update()` if all is finite, else `undo()`, and notes which suspects are not.

        Args:
            update, undo: functions without arguments, called in replica context.
            step: the optimizer's step.
            total: the scalar to minimize.
            gradients: its gradients; an empty list leaves them to the loss scale.
            suspects: `{name: structure of tensors}`, looked at only after a fault.
        """
        self.culprits = [*list(suspects)[:61], "the gradients"]
        fine = tf.logical_and(_finite([total]), _all_finite(gradients))
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            bad = context.all_reduce("SUM", tf.cast(tf.logical_not(fine), tf.int32))
            fine = tf.equal(bad, 0)
        fine = tf.logical_and(fine, tf.equal(self.fault.read_value(), 0))  # until it is raised

        def skip():
            undo()
            self._note(step, list(suspects.values())[:61])

        _choose(context, fine, update, skip)

    def _note(self, step, suspects):
        bits = [tf.cast(tf.logical_not(_finite(_floats(s))), tf.int64) * (1 << i)
                for i, s in enumerate(suspects)]  # fmt: skip
        found = tf.add_n(bits) if bits else tf.constant(0, tf.int64)
        found = tf.where(found > 0, found, tf.constant(1 << len(suspects), tf.int64))
        first = tf.equal(self.fault.read_value(), 0)
        self.step.assign(tf.where(first, tf.cast(step, tf.int64), self.step.read_value()))
        self.fault.assign(tf.where(first, found, self.fault.read_value()))

    def watch(self, function):
        """`function`, with a fault raised after each call."""

        def watched(iterator):
            try:
                logs = function(iterator)
            except tf.errors.InvalidArgumentError as error:
                raise _in_words(error) from error
            self.check()
            return logs

        return watched

    def check(self):
        """Raises what was noted since the last check."""
        fault = int(self.fault.numpy())
        if fault:
            names = [name for i, name in enumerate(self.culprits) if fault >> i & 1]
            self.fault.assign(0)
            raise ValueError(
                f"Not finite (NaN or infinite) at step {int(self.step.numpy())}: {', '.join(names)}. "
                "The update was skipped: the last good weights remain. Look for bad inputs or labels "
                "out of range; else lower the learning rate or the term's weight, or set `clipnorm`."
            )


def _choose(context, fine, update, skip):
    if context.num_replicas_in_sync == 1:
        tf.cond(fine, _quiet(update), _quiet(skip))
        return

    def across(strategy, fine):  # an optimizer merges its replicas: a `cond` goes around that
        def each(function):
            return _quiet(lambda: strategy.extended.call_for_each_replica(function))

        tf.cond(strategy.experimental_local_results(fine)[0], each(update), each(skip))

    context.merge_call(across, args=(fine,))


def _quiet(function):
    def run():
        function()
        return tf.constant(0)

    return run


def _floats(structure):
    return [t for t in tf.nest.flatten(structure) if tf.is_tensor(t) and t.dtype.is_floating]


def _finite(tensors):
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(t)) for t in tensors])


def _all_finite(gradients):
    """One cheap pass; the exact one only where the sum of squares is not finite."""
    tensors = [getattr(g, "values", g) for g in gradients if g is not None]
    if not tensors:
        return tf.constant(True)
    squares = tf.add_n([tf.cast(tf.nn.l2_loss(t), tf.float32) for t in tensors])
    return tf.cond(tf.math.is_finite(squares), lambda: tf.constant(True), lambda: _finite(tensors))


def _in_words(error):
    found = re.search(r"label value of (-?\d+) which is outside the valid range of (\[\d+, \d+\))", str(error))
    if found is None:
        return error
    return ValueError(f"Labels must be class ids in {found[2]}. Received: {found[1]}.")
