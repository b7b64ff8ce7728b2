"""The train step: the one place where a student, its teachers and the terms meet."""

import keras

from keras_distill import schedules, taps
from keras_distill.batch import Batch, labels_of
from keras_distill.text import pipeline as raw_text
from keras_distill.training import building, checks, fused_head
from keras_distill.training.guard import Guard
from keras_distill.training.term import global_mean, student_paths, teacher_paths

import tensorflow as tf  # isort: skip: after the check of the backend in `taps`


class Distiller(fused_head.MayFuse, raw_text.TakesText, keras.Model):
    """Trains a student on labels and on teachers' targets, through Keras's own `fit`.

    `total = (1 - alpha) * label_loss + alpha * sum(weight * term) + the student's regularization`

    With a teacher and nothing else this is Hinton's distillation at temperature 2:
    `alpha * T^2 * KL(p_teacher(T) || p_student(T)) + (1 - alpha) * CE(y, p_student)`.

    `evaluate`, `predict` and `save` are the student's own: no teacher runs in them or is saved.

    Data of strings go through the preprocessor of a student that is a KerasHub task, as in its own
    `fit`, and through that of a teacher which reads text otherwise.

    Args:
        student: the model to train; functional, sequential or subclassed.
        teacher: a Keras model, a `Teacher`, a function of the inputs, `{name: any of these}`, or
            `None` where the student teaches itself.
        terms: a list of `Term`s. Defaults to `[Term(KLDivergence(temperature=2))]` with a teacher;
            of several, each teaches its share.
        alpha: the terms' share, in [0, 1]: a number or a schedule. Left out, it is 0.5, or 1 where
            `compile` gets no `loss`.
        fused_head: whether label loss and divergences of outputs are measured by blocks of the
            vocabulary, so that no step holds all logits: for a KerasHub `CausalLM` or `Seq2SeqLM`
            of many words, with teachers of this kind or cached `TopK`s.
        name: the model's name.

    Raises:
        ValueError: for a wrong `alpha`, two terms of one name, a term whose source or layer does
            not exist, models of different distribution strategies.

    Example:

    ```python
    distiller = Distiller(student, teacher=teacher)
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.fit(x, y, validation_data=(x_valid, y_valid))
    distiller.save("student.keras")
    ```

    Reference:
        - [Hinton et al., 2015](https://arxiv.org/abs/1503.02531)
    """

    def __init__(self, student, *, teacher=None, terms=None, alpha=None, fused_head=False,
                 name="distiller"):  # fmt: skip
        checks.check_student(student)
        super().__init__(name=name, dtype=student.dtype_policy)  # so that `compile` scales float16
        building.leave_inputs(self)
        self.student = student
        self.alpha = building.share(alpha)
        self.teachers = building.teachers_by_name(teacher)
        for source in self.teachers.values():
            source.begin(student)
        checks.check_strategies(self)
        self.teacher_state = [state for source in self.teachers.values() for state in source.state]
        self.terms, self.built_terms = [], []
        self.projectors, self.trackers = {}, {}  # by the term's name; also losses' own layers
        self._look_due, self._label_tracker = False, None
        self.attach(*(building.default_terms(self.teachers) if terms is None else terms))
        self.built = student.built

    def compile(self, optimizer="rmsprop", loss=None, *args, **kwargs):
        """Keras's; without a `loss` there are no labels, and `alpha` is 1."""
        if loss is None:
            checks.check_label_free(self.alpha)
            self._compile_loss = None  # Keras keeps that of the `compile` before
        super().compile(**building.compile_arguments(self, optimizer, loss, *args, **kwargs))
        self._look_due = True
        with self.distribute_strategy.scope():
            alone = self._distribute_strategy is None
            self._guard = Guard(halts=alone and not self.jit_compile)
            self._label_tracker = self._label_tracker or keras.metrics.Mean(name="label_loss")

    def _lock_state(self):
        """Keras's would refuse projectors and trackers once a call has built the student."""

    # Terms

    def attach(self, *terms):
        """Adds terms; one with a projector only before the optimizer is built."""
        checks.check_terms(self, terms)  # all of them, before the first is attached
        for term in terms:
            self.terms.append(term)
            with self.distribute_strategy.scope():
                self.trackers[term.name] = keras.metrics.Mean(name=term.name)
        self._retrace(terms)

    def detach(self, *terms):
        """Takes terms out again."""
        for term in terms:
            if term in self.terms:
                self.terms.remove(term)
                self.trackers.pop(term.name)  # `del` would leave it tracked, and in the logs
        self._retrace(terms)

    def _retrace(self, changed):
        self._look_due = self._look_due or bool(changed)
        if changed and self.train_function is not None:
            self.make_train_function(force=True)

    # Keras

    def call(self, x, training=None):
        return self.student(x, training=training)

    def fit(self, x=None, y=None, batch_size=None, epochs=1, verbose="auto", callbacks=None,
            *args, **kwargs):  # fmt: skip
        """Keras's, with the terms that callbacks bring (`callback.terms`) attached meanwhile."""
        listed = getattr(callbacks, "callbacks", None) or keras.tree.flatten(callbacks or [])
        brought = [term for callback in listed for term in getattr(callback, "terms", ())]
        self.attach(*brought)
        try:
            checks.check_ready(self, kwargs)
            self._training_starts = True  # until `_maybe_symbolic_build` has seen it
            return super().fit(x, y, batch_size, epochs, verbose, callbacks, *args, **kwargs)
        finally:
            self.detach(*brought)

    def train_on_batch(self, *args, **kwargs):
        """Keras's."""
        checks.check_ready(self, {})
        self._training_starts = True
        return super().train_on_batch(*args, **kwargs)

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            super().make_train_function(force)
            self.train_function = self._guard.watch(self.train_function, self.steps_per_execution)

    def train_step(self, data):
        batch = building.tensors(Batch.unpack(data))
        state = [tf.identity(v.value) for v in building.state(self)]
        with tf.GradientTape() as tape, schedules.at(self.optimizer.iterations):
            features = self._features(batch, training=True)  # one student forward, ever
            with tape.stop_recording():
                targets = self._targets(batch, features)
            measured = self._measure(features, targets, batch)
            label = self._label_loss(batch.labels, features["output"], batch.sample_weight)
            total = self._total(label, measured)
            scaled = self.optimizer.scale_loss(total)
        variables = building.trained(self)  # the student's and the projectors'
        gradients = tape.gradient(scaled, variables)
        suspects = building.suspects(self, label, measured, targets)
        self._update(gradients, variables, state, total, suspects)
        for teacher in self.teachers.values():
            teacher.update(self.student)
        self._track(batch, total, label, measured)
        return self.compute_metrics(batch.x, batch.labels, features["output"], batch.sample_weight)

    def test_step(self, data):
        """The student alone: its label loss, regularization and compiled metrics."""
        batch = building.tensors(Batch.unpack(data))
        logs = super().test_step((batch.x, batch.labels, batch.sample_weight))
        unmeasured = {*self.trackers, "label_loss", *(() if self._compile_loss else ("loss",))}
        logs = {name: value for name, value in logs.items() if name not in unmeasured}
        if not logs:
            raise ValueError("Nothing to evaluate: give `compile` a `loss` or `metrics`.")
        return logs

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The label loss and the regularization: what `evaluate` reports as `loss`."""
        return self._regularized(self._label_loss(y, y_pred, sample_weight))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        labels = building.one_each(labels_of(y), y_pred)
        logs = super().compute_metrics(x, labels, y_pred, labels_of(sample_weight))
        checks.check_names(self)
        return building.reducible(self, logs)

    def save(self, *args, **kwargs):
        """Saves the student, not compiled, which loads without this package."""
        compiled, self.student.compiled = self.student.compiled, False
        try:
            self.student.save(*args, **kwargs)
        finally:
            self.student.compiled = compiled

    def export(self, *args, **kwargs):
        """Exports the student."""
        self.student.export(*args, **kwargs)

    def get_config(self):
        raise ValueError("A distiller is not saved: `distiller.save(path)` saves the student.")

    def load_weights(self, *args, **kwargs):
        if not self.built or building.unbuilt(self):
            raise ValueError(
                "Projectors are built by the first batch: call `fit(data, epochs=0)` before "
                "`load_weights`."
            )
        super().load_weights(*args, **kwargs)

    def summary(self, *args, print_fn=None, **kwargs):
        """The student's summary; then teachers, terms and where each is tapped."""
        self.student.summary(*args, print_fn=print_fn, **kwargs)
        (print_fn or print)(building.described(self))

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Keras calls this first in `fit`, `evaluate` and `train_on_batch`, before any callback."""
        training, self._training_starts = getattr(self, "_training_starts", False), False
        building.build(self, iterator, data_batch, training)

    # Parts of a step

    def _features(self, batch, training):
        paths = ["output", *student_paths(self.terms)]
        return taps.run(self.student, batch.x, paths, training=training)

    def _targets(self, batch, features):
        paths = teacher_paths(self.terms)
        return {source: self.teachers[source].targets(batch, features, asked)
                for source, asked in paths.items()}  # fmt: skip

    def _measure(self, features, targets, batch):
        return {term: term(features, targets[term.source], batch, self.projectors.get(term.name))
                for term in self.terms}  # fmt: skip

    def _label_loss(self, labels, y_pred, sample_weight):
        if self._compile_loss is None:
            return tf.zeros(())
        labels = building.one_each(labels_of(labels), y_pred)
        return self._compile_loss(labels, y_pred, labels_of(sample_weight))

    def _regularized(self, loss):
        added = [self._aggregate_additional_loss(each) for each in building.added_losses(self)]
        return keras.ops.sum([loss, *added]) if added else loss

    def _share(self):
        """Alpha as it counts: 1 without labels, 0 without terms."""
        if self._compile_loss is None:
            return 1
        return (0.5 if self.alpha is None else self.alpha) if self.terms else 0

    def _total(self, label, measured):
        share = self._share()
        alpha = schedules.value_at(share)
        parts = []  # what counts nothing is left out, since 0 * NaN is NaN
        if not (schedules.is_number(share) and share == 1):
            parts.append((1 - alpha) * label)
        if not (schedules.is_number(share) and share == 0):
            parts += [alpha * schedules.value_at(term.weight) * global_mean(*value)
                      for term, value in measured.items()]  # fmt: skip
        return self._regularized(sum(parts[1:], parts[0]))

    def _update(self, gradients, variables, state, total, suspects):
        """One update, unless total or gradients are not finite; at `alpha=0` it is Keras's."""
        share = self._share()
        if schedules.is_number(share) and share == 0:
            self.optimizer.apply_gradients(zip(gradients, variables))
            return
        restored = building.state(self), state
        self._guard.update(self.optimizer, gradients, variables, restored, total, suspects)

    def _track(self, batch, total, label, measured):
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            total, label = context.all_reduce("SUM", [total, label])
        first = next(part for part in keras.tree.flatten(batch.x) if part is not None)
        size = tf.cast(tf.shape(first)[0], tf.float32)
        building.add(self._loss_tracker, tf.cast(total, tf.float32) * size, size)
        building.add(self._label_tracker, tf.cast(label, tf.float32) * size, size)
        for term, (values, weights) in measured.items():
            sums = tf.reduce_sum(values * weights), tf.reduce_sum(weights)
            building.add(self.trackers[term.name], *sums)
