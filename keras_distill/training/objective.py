"""The objective: teachers, terms and alpha, without a `keras.Model` around them."""

from typing import Any, NamedTuple

import keras
from keras import ops, tree

from keras_distill import schedules, taps
from keras_distill._keras import trainer
from keras_distill._keras.graph import output_keys, output_names, own_inputs
from keras_distill._keras.layers import sublayers
from keras_distill.teachers import CachedTeacher, ModelTeacher, SelfTeacher, Teacher
from keras_distill.teachers.teacher import described
from keras_distill.training import compiling, defaults, first_look, heads, label_checks, replicas
from keras_distill.training.outputs import by_output, one_each
from keras_distill.training.term import Term, student_paths, teacher_paths

RESERVED = ("loss", "label_loss")


class Outcome(NamedTuple):
    """The results of the forward half of a step.

    Args:
        total: the scalar to minimize.
        label: the label loss, or `None`.
        measured: `{term's name: Measured}`.
        output: the output for the compiled loss and metrics.
    """

    total: Any
    label: Any
    measured: Any
    output: Any


class Objective:
    """`(1 - alpha) * label_loss + alpha * sum(weight * term) + the student's regularization`.

    A `Distiller` holds one as `distiller.objective`. A callback or a loop of your own may call all
    of its methods.

    Args:
        student: the model to train.
        teacher: a Keras model, a `Teacher`, a function of the inputs, `{name: any of these}` or
            `None`.
        terms: a list of `Term`s, or `None` for one per teacher and output that fits the student's
            head.
        alpha: **the share of the teachers**, in [0, 1]: a number, a schedule or a variable. `None`
            means 0.5, or 1 without labels.

    Attributes:
        teachers: `{name: Teacher}`, `"self"` among them.
        terms: the attached terms.
        defaults: those of the terms that nobody gave.
        layers: `{term's name: {"projector" | "loss": layer}}`, which train with the student.
            `prepare` makes them.
        weights: `{term's name: weight}`, a number, a schedule or a variable in place of the term's
            own weight. Callbacks set it; the user's `Term` stays unchanged.
        read: `{id: variable}` of all variables that the first look has read, whoever owns them.
        labels: whether there is a loss on labels.
        first_batch: the batch that `prepare` got, for callbacks that measure on one.

    Example:

    ```python
    objective = distiller.objective
    batch = objective.first_batch
    targets = objective.targets(batch)
    measured = objective.measure(objective.features(batch, training=False), targets, batch)
    print({name: float(each.mean()) for name, each in measured.items()})
    ```
    """

    gives_logits = True  # whether `features` hold the logits of outputs

    def __init__(self, student, teacher=None, terms=None, alpha=None):
        self.student = student
        self.teachers = teachers_by_name(teacher)
        self.alpha = checked_alpha(alpha)
        self.terms, self.layers, self.read = [], {}, {}
        self.weights, self._waiting = {}, []
        self.labels, self.loss, self.compiled_metrics = False, None, None
        self.first_batch = None
        self._shapes = {}  # shapes of teachers' answers, for graphs that do not know them
        for source in self.teachers.values():
            source.begin(student)
        self.defaults = defaults.made(self.teachers) if terms is None else []
        if isinstance(terms, Term):
            raise TypeError(f"`terms` must be a list of terms. Received: terms={terms!r}")
        self.attach(*(self.defaults if terms is None else terms))

    # Terms

    def attach(self, *terms):
        """Adds all of the terms, or none if one is refused."""
        names = [*RESERVED, *(term.name for term in self.terms)]
        for term in terms:
            if not isinstance(term, Term):
                raise TypeError(
                    f"`terms` must hold `Term` objects. Wrap a loss as `Term(loss)`. Received: "
                    f"{term!r}"
                )
            if term.name in names:
                raise ValueError(
                    f"Another term is named `{term.name}`. Give this term another `name`."
                )
            names.append(term.name)
            self.check(term)
        self.terms.extend(terms)

    def detach(self, *terms):
        """Removes terms. Their trained layers stay in `layers`."""
        self.terms = [term for term in self.terms if term not in terms]

    def check(self, term):
        """Raises an error for a source or layer that does not exist, as far as models are built."""
        compiling.check_own_step(self.student)
        if term.source not in self.teachers:
            raise ValueError(
                f"The `source` of `{term.name}` must be one of {', '.join(self.teachers)}. "
                f"Received: source={term.source!r}"
            )
        if self.student.built:
            for path in student_paths([term]):
                if not taps.is_edge(path):
                    taps.find_layer(self.student, path)
        teacher = self.teachers[term.source]
        for path in tree.flatten(term.teacher):
            if not teacher.has(path):
                for model in teacher.models():
                    if isinstance(model, keras.layers.Layer):
                        taps.find_layer(model, path)  # its error names the existing layers
                raise ValueError(
                    f"`{term.name}` reads `{path}`, but the teacher `{term.source}` has no layers. "
                    f"Compare its output, or give a Keras model as the teacher. Received: "
                    f"{teacher.describe()}"
                )

    def waiting(self):
        """Returns the terms whose layers are built with the first batch."""
        return [term for term in self.terms if term.trains and term.name not in self.layers]

    def own_layers(self):
        """Returns the layers of attached terms, which train beside the student."""
        names = {term.name for term in self.terms}
        return [layer for name, made in self.layers.items() if name in names
                for layer in made.values()]  # fmt: skip

    def state(self):
        """Returns what a training forward pass may change: batch statistics, seeds, memories."""
        layers = [self.student, *self.own_layers()]
        return [variable for layer in layers for variable in layer.non_trainable_variables]

    def trained(self, variables):
        """Returns the trainable variables that a step trains, without those of detached terms."""
        kept = {id(layer) for layer in self.own_layers()}
        idle = [layer for made in self.layers.values() for layer in made.values()
                if id(layer) not in kept]  # fmt: skip
        left_out = {id(v) for layer in idle for v in layer.trainable_variables}
        return [variable for variable in variables if id(variable) not in left_out]

    @property
    def share(self):
        """Alpha as it counts: 0 without terms, 1 without labels."""
        if not self.terms:
            return 0
        if not self.labels:
            return 1
        return 0.5 if self.alpha is None else self.alpha

    @property
    def teaches(self):
        """Whether terms count; if not, a step is the student's own, bit for bit, unguarded."""
        return not (schedules.is_number(self.share) and self.share == 0)

    @property
    def loses(self):
        """Whether `evaluate` has a loss to report; it has none if only a teacher teaches."""
        return self.labels or not self.terms

    @property
    def judged(self):
        """The model whose compiled loss and metrics count: the student."""
        return self.student

    def compile(self, *args, **kwargs):
        """Compiles the judged model with the arguments of its own `compile`."""
        judged = self.judged
        trainer.forget_compiled(judged)
        names, taught = output_keys(self.student), bool(self.terms)
        compiling.compile_model(judged, names, self.jits(), taught, args, kwargs)
        self.labels, self.loss = trainer.has_label_loss(judged), judged.loss
        self.compiled_metrics = trainer.compiled_metrics(judged)
        compiling.check_share(self.alpha, self.labels, self.terms)

    # The forward pass

    def prepare(self, batch):
        """Checks the first batch, and makes `layers`.

        The method runs in a scope that drops all assignments. Student, teachers and seeds stay
        unchanged.

        Args:
            batch: a `Batch`.

        Returns:
            The output for the compiled loss and metrics, in inference mode.

        Raises:
            ValueError: for every error that is known before the first update.
        """
        batch = tree.map_structure(
            lambda value: value if value is None else ops.convert_to_tensor(value), batch
        )
        self.first_batch = self.first_batch or batch
        output = first_look.look(self, batch)
        waiting, self._waiting = self._waiting, []
        for function in waiting:
            function()
        return output

    def when_ready(self, function):
        """Calls a function without arguments after the look at the first batch, or now.

        Callbacks use it, since data that callbacks steer are not read before the first step.
        """
        if self.first_batch is None or self.waiting():
            self._waiting.append(function)
        else:
            function()

    def choose_defaults(self, features, batch):
        """Makes the default terms by the student's outputs; returns whether their paths changed."""
        return defaults.follow(self, features["output"], self.by_output(batch).labels)

    def check_heads(self, features, answers):
        """Raises an error for a term that does not fit the student's head and compiled loss."""
        heads.check(self, features, answers)

    def check_labels(self, batch, features):
        """Raises an error for labels that do not fit the compiled loss and the head."""
        label_checks.check(self.loss, self.by_output(batch), features["output"])

    def features(self, batch, training):
        """Runs the student once; returns `{path: tensor}` for every path that terms read."""
        paths = ["output", *student_paths(self.terms)]
        return taps.run(self.student, self.inputs(batch.x), paths, training=training)

    def inputs(self, x):
        """Returns the inputs that the student reads, of a dict that may hold others too."""
        return own_inputs(self.student, x)

    def targets(self, batch, features=None):
        """Returns `{source: {path: tensor}}`, without gradients.

        Args:
            features: the student's features, for the sources that read them (`"self"`). Without
                features these sources are left out, so that the other teachers can run before the
                part that is differentiated.
        """
        found = {}
        for source, paths in teacher_paths(self.terms).items():
            teacher = self.teachers[source]
            if teacher.reads_features == (features is not None):
                answer = teacher.targets(batch, features or {}, paths)
                found[source] = {path: self._shaped(source, path, answer[path]) for path in paths}
        return found

    def note_shapes(self, targets):
        """Remembers the axes and classes of the first answers, since a graph may not know them."""
        for source, values in targets.items():
            for path, value in values.items():
                if ops.is_tensor(value):
                    self._shapes[source, path] = tuple(value.shape)

    def _shaped(self, source, path, value):
        shape = self._shapes.get((source, path))
        return value if shape is None else first_look.with_shape(value, shape)

    def measure(self, features, targets, batch):
        """Returns `{term's name: Measured}`, what each term measures.

        Args:
            features: as `features` returns them.
            targets: as `targets` returns them.
            batch: the same `Batch`.
        """
        targets = {**targets, **self.targets(batch, features)}
        batch = self.by_output(batch)
        return {term.name: term(features, targets[term.source], batch, self.layers.get(term.name))
                for term in self.terms}  # fmt: skip

    def by_output(self, batch):
        """Returns a batch whose labels and weights have the keys by which terms name outputs."""
        names = output_names(self.student)
        return batch._replace(labels=by_output(batch.labels, names),
                              sample_weight=by_output(batch.sample_weight, names))  # fmt: skip

    def judged_inputs(self, batch):
        """Returns the inputs of the judged model for a batch."""
        return self.inputs(batch.x)

    def measured_output(self, features, targets, batch):
        """Returns what terms measure, and the output for the compiled loss and metrics."""
        return self.measure(features, targets, batch), features["output"]

    def label_loss(self, batch, output):
        """Returns the label loss or `None`, and the student's regularization.

        If the student has a `compute_loss` of its own, this is the label loss. If no term counts,
        the label loss on replicas is Keras's.
        """
        judged, labels = self.judged, one_each(batch.labels, output)
        if trainer.overrides(judged, "compute_loss"):
            weight = batch.sample_weight
            return trainer.compute_loss(judged, batch.x, labels, output, weight, True), []
        label = None
        if self.labels:
            measure = replicas.label_loss if self.teaches else trainer.label_loss
            label = measure(judged, labels, output, batch.sample_weight)
        return label, trainer.added_losses(judged)

    def forward(self, batch, targets, step):
        """Runs the half of a step that is differentiated; the student runs here, once.

        Args:
            batch: a `Batch`.
            targets: the result of `targets(batch)`.
            step: the number of updates so far, for schedules.

        Returns:
            An `Outcome`.
        """
        with schedules.at(step):
            features = self.features(batch, training=True)
            measured, output = self.measured_output(features, targets, batch)
            label, added = self.label_loss(batch, output)
            return Outcome(self.total(label, measured, added), label, measured, output)

    def total(self, label, measured, added=()):
        """Returns the scalar to minimize. Parts without weight are left out, since 0 * NaN is NaN.

        Args:
            label: the label loss, a scalar, or `None` without labels.
            measured: as `measure` returns it.
            added: the student's regularization, scalars.
        """
        share, fixed = self.share, schedules.is_number(self.share)
        parts = []
        if label is not None and not (fixed and share == 1):
            whole = fixed and share == 0
            parts.append(label if whole else self._weighed(1 - self._now(share, label), label))
        if self.teaches:
            for term in self.terms:
                mean = measured[term.name].mean()
                parts.append(self._now(share, mean) * self._now(self.weight_of(term), mean) * mean)
        parts = _of_one_dtype(parts)
        parts = [sum(parts[1:], parts[0])] if parts else []
        layers = self.own_layers()
        parts += [*added, *(ops.sum(loss) for layer in layers for loss in layer.losses)]
        if not parts:
            raise ValueError(
                "There is nothing to learn from. Give `compile` a `loss`, or give the distiller a "
                "teacher or terms."
            )
        return parts[0] if len(parts) == 1 else ops.sum(_of_one_dtype(parts))

    def weight_of(self, term):
        """Returns the weight of a term: its own, or the one in its place."""
        return self.weights.get(term.name, term.weight)

    def knobs(self):
        """Returns alpha, every weight and every temperature, as `schedules.Knob`s."""
        weights = {term.name: self.weight_of(term) for term in self.terms}
        return schedules.knobs(self.share, self.terms, weights)

    def parts(self, batch, targets):
        """Returns the parts of a batch's loss at weight 1: each term's mean, and the label loss.

        Args:
            batch: a `Batch`.
            targets: the result of `targets(batch)`.

        Returns:
            `{term's name or "label_loss": scalar}`, in training mode.
        """
        features = self.features(batch, training=True)
        measured, output = self.measured_output(features, targets, batch)
        parts = {name: each.mean() for name, each in measured.items()}
        label, _ = self.label_loss(batch, output)
        return parts if label is None else {**parts, "label_loss": ops.sum(label)}

    @staticmethod
    def _now(share, like):
        value = schedules.value_at(share)
        return ops.cast(value, like.dtype) if ops.is_tensor(value) else value

    @staticmethod
    def _weighed(share, label):
        """Sums a loss with `reduction=None`, as Keras does for its gradient."""
        return share * (ops.sum(label) if len(label.shape) else label)

    def suspects(self, label, measured, targets, step):
        """Returns the values to check, by name, if a total is not finite; causes come first.

        Args:
            label, measured, targets: the values of the step.
            step: the number of updates so far.

        Returns:
            `{name: structure of tensors}`. A `Knob` stands in the place of a name if a schedule or
            a variable may have left its range.
        """
        found = {
            knob: knob.within(step) for knob in self.knobs() if not schedules.is_number(knob.value)
        }
        found |= {
            f"the output of `{source}` at `{path}`": value
            for source, values in targets.items()
            for path, value in values.items()
        }
        if label is not None:
            found["label_loss"] = label
        return found | {f"the term `{name}`": each.values for name, each in measured.items()}

    def update(self, updated):
        """Updates moving teachers after a step, so that they follow the student.

        Args:
            updated: a scalar, whether the optimizer has updated the student. Under
                `gradient_accumulation_steps` not every step does.
        """
        for teacher in self.teachers.values():
            teacher.update(self.student, updated)

    # Descriptions

    def jits(self):
        """Returns whether XLA can compile all teachers, which Keras cannot know."""
        models = [model for teacher in self.teachers.values() for model in teacher.models()]
        known = all(isinstance(model, keras.Model) for model in models)
        return known and all(
            layer.supports_jit
            for model in models
            for layer in [model, *sublayers(model, recursive=True)]
        )

    def describe(self):
        """Returns teachers and terms, with a line for each."""
        lines = [f"Distiller: {described(self.student)}"]
        for name, teacher in self.teachers.items():
            if name != "self":
                lines.append(f"  teacher `{name}`: {teacher.describe()}")
        for term in self.terms:
            lines.append(
                f"  term `{term.name}`: {term.loss.name}, student {term.student} <- {term.source} "
                f"{term.teacher}, weight {schedules.described(self.weight_of(term))}, projector "
                f"{term.projector or 'none'}"
            )
        return "\n".join(lines)


def _of_one_dtype(parts):
    """Converts losses to the widest of their dtypes: a student may be of float64."""
    dtypes = {keras.backend.standardize_dtype(part.dtype) for part in parts}
    if len(dtypes) < 2:
        return parts
    return [ops.cast(part, keras.backend.result_type(*dtypes)) for part in parts]


def teachers_by_name(teacher):
    """Returns the sources that terms can name: the given teachers, and "self"."""
    named = teacher if isinstance(teacher, dict) else {"teacher": teacher}
    if "self" in named:
        raise ValueError(
            "`self` is reserved for the student's own features. Give this teacher another name."
        )
    given = {key: source for key, source in named.items() if source is not None}
    cached = [key for key, source in given.items() if isinstance(source, CachedTeacher)]
    if len(cached) > 1:
        raise ValueError(
            "Only one teacher may be a `CachedTeacher`, since each would read the same targets. "
            'Cache the targets of several teachers under different paths, such as "a/output", and '
            f"name the path as the `teacher` of a term. Received: CachedTeacher as {cached}"
        )
    return {"self": SelfTeacher()} | {
        key: source if isinstance(source, Teacher) else ModelTeacher(source)
        for key, source in given.items()
    }


def checked_alpha(alpha):
    """Returns alpha after checks; a variable becomes untrainable for the optimizer."""
    if isinstance(alpha, keras.Variable):
        alpha.trainable = False
    return None if alpha is None else schedules.check("alpha", alpha, low=0, high=1)
