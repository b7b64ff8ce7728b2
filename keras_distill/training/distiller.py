"""The distiller: Keras's hooks around an `Objective`."""

import contextlib
import functools
import importlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_distill import _backend
from keras_distill._keras import epochs, trainer
from keras_distill.batch import Batch, Supervision
from keras_distill.export.signature import signature_of
from keras_distill.schedules import Hyperparameter
from keras_distill.text.pipeline import Readers, read_raw, read_raw_fit
from keras_distill.text.view import preprocessor_of
from keras_distill.training import compiling, resuming, weights
from keras_distill.training.fused_objective import FusedObjective
from keras_distill.training.kept import Kept
from keras_distill.training.objective import Objective, checked_alpha
from keras_distill.training.outputs import run
from keras_distill.training.scores import Scores
from keras_distill.training.term import Term
from keras_distill.training.weight_files import OPTIMIZER, WeightsFile, assign

_step = importlib.import_module(f"keras_distill.training.step_{_backend.NAME}")


class Distiller(_step.Step, trainer.LooksFirst, trainer.SharesCompiled, keras.Model):
    """Trains a student on labels and on teachers' targets, through Keras's own `fit`.

    `total = (1 - alpha) * label_loss + alpha * sum(weight * term) + the student's regularization`

    With a teacher and nothing else this is Hinton's distillation at temperature 2:
    `alpha * T^2 * KL(p_teacher(T) || p_student(T)) + (1 - alpha) * CE(y, p_student)`.

    In every other respect a distiller behaves like `student`. `compile` compiles the student.
    `evaluate`, `predict`, `save` and weights files are those of the student. Attributes that the
    distiller lacks come from the student. Teachers do not run in `evaluate`, and are not saved.

    Args:
        student: the model to train: functional, sequential or subclassed. A `compute_loss` of its
            own is the label loss. A `compute_metrics` of its own gives the metrics.
        teacher: a Keras model, a `Teacher`, a function of the inputs, `{name: any of these}`, or
            `None` if the student teaches itself.
        terms: a list of `Term`s. Defaults to one term on the outputs of each teacher, with equal
            shares. The default loss is `KLDivergence(temperature=2)`, or one that fits the head and
            the compiled loss: `BinaryKLDivergence` for a binary classifier in each unit, the
            squared error for a regression. Of several outputs, each with a compiled loss has a
            term, with the `loss_weights` of `compile`.
        alpha: **the share of the teachers**, in [0, 1], a number or a schedule. The labels have
            `1 - alpha`. Defaults to 0.5, or 1 if `compile` gets no `loss`.
        fused_head: whether to compute label loss and divergences of outputs in blocks of the
            vocabulary, so that no step holds all logits. It is for a KerasHub `CausalLM` or
            `Seq2SeqLM` with a large vocabulary, with teachers of this kind or cached `TopK`s.
        name: the model's name.

    Raises:
        TypeError: if the student is not a Keras model.
        ValueError: if `alpha` is out of range, two terms have one name, a term's source or layer
            does not exist, a student with its own `train_step` gets terms, or the models belong to
            different distribution strategies.

    Example:

    ```python
    distiller = Distiller(student, teacher=teacher)
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.fit(x, y, validation_data=validation_data)
    distiller.save("student.keras")
    ```

    Reference:
        - [Hinton et al., 2015](https://arxiv.org/abs/1503.02531)
    """

    def __init__(
        self,
        student: keras.Model,
        *,
        teacher: Any = None,
        terms: Sequence[Term] | None = None,
        alpha: Hyperparameter | None = None,
        fused_head: bool = False,
        name: str = "distiller",
    ):
        compiling.check_student(student)
        super().__init__(name=name, dtype=student.dtype_policy)  # so that `compile` scales float16
        trainer.takes_inputs_as_they_are(self)
        self.student, self.kept, self.mode = student, Kept(), None
        self.objective = (FusedObjective if fused_head else Objective)(
            student, teacher, terms, alpha
        )
        compiling.check_strategies(student, self.teachers)
        compiling.warn_of_shared(student, self.teachers)
        self.kept.hold([layer for each in self.teachers.values() for layer in each.state])
        self.scores = Scores(self.objective, functools.partial(_backend.scope_of, self))
        self.scores.follow_terms()
        self.guard, self._class_weight, self._look_due = None, None, True
        self._loaded = None  # a weights file, for layers that are built with the first batch
        self._place, self._waiting = None, []  # where a `fit` begins, and functions that wait
        self.built = student.built

    # For users and callbacks

    @property
    def judged(self):
        """The compiled model: the student, or the model that stands for it under a fused head."""
        return self.objective.judged

    @property
    def teachers(self):
        """The teachers as `{name: Teacher}`, with `"self"` for the student's own features."""
        return self.objective.teachers

    @property
    def terms(self):
        """The attached terms."""
        return self.objective.terms

    @property
    def alpha(self):
        """The share of the teachers as it was given."""
        return self.objective.alpha

    @alpha.setter
    def alpha(self, alpha):
        self.objective.alpha = checked_alpha(alpha)
        self.train_function = None

    @property
    def projectors(self):
        """The projectors as `{term's name: projector}`, once a batch was seen."""
        made = self.objective.layers.items()
        return {name: layers["projector"] for name, layers in made if "projector" in layers}

    def keep(self, name, value):
        """Returns a number for a callback that the weights files save: a variable, made once.

        Args:
            name: its name in the file.
            value: its first value.
        """
        with _backend.scope_of(self):
            return self.kept.number(name, value)

    def attach(self, *terms):
        """Adds terms. Add terms with weights of their own before the optimizer is built."""
        optimizer = getattr(self, "optimizer", None)
        for term in terms if optimizer is not None and optimizer.built else ():
            if getattr(term, "trains", False) and term.name not in self.objective.layers:
                raise ValueError(
                    f"`{term.name}` has weights, but the optimizer is already built without them. "
                    "Attach the term before the first `fit`, or `compile` again."
                )
        self.objective.attach(*terms)
        self._follow_terms(terms)

    def detach(self, *terms):
        """Removes terms."""
        self.objective.detach(*terms)
        self._follow_terms(terms)

    def _follow_terms(self, changed):
        self.scores.follow_terms()
        self._look_due = self._look_due or bool(changed)
        if changed and self.train_function is not None:
            self.make_train_function(force=True)

    # Keras's hooks

    def compile(self, *args, **kwargs):
        """Compiles the student with these arguments; without a `loss` alpha is 1."""
        self.objective.compile(*args, **kwargs)
        judged = self.judged
        super().compile(
            judged.optimizer,
            run_eagerly=judged.run_eagerly,
            steps_per_execution=judged.steps_per_execution,
            jit_compile=judged.jit_compile,
            auto_scale_loss=False,
        )
        self.scores.follow_terms()
        self._look_due = True
        self.guard = self.new_guard()

    def call(self, x, training=None):
        return run(self.student, self.objective.inputs(x), training)

    def compute_output_shape(self, *args, **kwargs):
        """Returns the shape of the student's output."""
        return self.student.compute_output_shape(*args, **kwargs)

    def fit(self, *args, **kwargs):
        """Calls the student's `fit`, with the callbacks' terms (`callback.terms`) attached."""
        given = compiling.arguments(keras.Model.fit, args, kwargs)
        brought = compiling.brought_terms(given.get("callbacks"))
        self.attach(*brought)
        try:
            if self.compiled:
                compiling.check_ready(self.objective, given)
                self._begin(compiling.ends_at_nan(given.get("callbacks")))
            given = read_raw_fit(given, self.student, [*self.teachers.values()])
            if given.get("sample_weight") is not None and given.get("y") is None:
                given["y"] = Supervision(None)  # Keras drops weights without a `y`
            if isinstance(given.get("y"), Supervision):
                given["sample_weight"] = weights.beside(given["y"], given.get("sample_weight"))
            rides = compiling.rides_along(given, self.teachers)
            self._weigh_classes(given.pop("class_weight", None) if rides else None)
            callbacks = compiling.listed(given.get("callbacks"))
            with self._in("train"), resuming.place_of(callbacks, self) as self._place:
                if self._place is not None:
                    given["initial_epoch"] = self._place.initial_epoch(given.get("epochs", 1))
                return super().fit(**given)
        finally:
            self.detach(*brought)

    def _begin(self, warns):
        """Begins a training without faults; they only warn if a callback ends it."""
        if self.guard.begin(warns):
            self.train_function = None

    def _weigh_classes(self, class_weight):
        """Applies `class_weight` to labels with targets, which Keras cannot do."""
        if class_weight != self._class_weight:
            self._class_weight, self.train_function = class_weight, None

    def evaluate(self, *args, **kwargs):
        """Calls the student's `evaluate`."""
        given = compiling.arguments(keras.Model.evaluate, args, kwargs)
        if self.compiled:
            compiling.check_evaluates(self.objective)
        with self._in("test"):
            return super().evaluate(**self._read(given))

    def predict(self, *args, **kwargs):
        """Calls the student's `predict`."""
        return super().predict(**self._read(compiling.arguments(keras.Model.predict, args, kwargs)))

    def _read(self, given):
        return read_raw(given, self.student, [*self.teachers.values()])

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """Trains on one batch, as the student's `train_on_batch` does."""
        if self.compiled:
            compiling.check_ready(self.objective, {})
            self._begin(False)
        x, y, sample_weight = self._read_batch(x, y, sample_weight)
        y = Supervision(None) if y is None and sample_weight is not None else y
        if class_weight is not None and isinstance(y, Supervision):
            sample_weight, class_weight = weights.by_class(y.labels, class_weight), None
        with self._in("train"):
            return super().train_on_batch(x, y, sample_weight, class_weight, return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """Calls the student's `test_on_batch`."""
        with self._in("test"):
            return super().test_on_batch(*self._read_batch(x, y, sample_weight), return_dict)

    def predict_on_batch(self, x):
        """Calls the student's `predict_on_batch`."""
        return super().predict_on_batch(self._read_batch(x, None, None)[0])

    def _read_batch(self, x, y, sample_weight):
        readers = Readers(self.student, [*self.teachers.values()], x)
        if not readers:
            return x, y, sample_weight
        return keras.utils.unpack_x_y_sample_weight(readers.read(x, y, sample_weight))

    @contextlib.contextmanager
    def _in(self, mode):
        """Makes metrics those of training ("train") or the student's own ("test") for the block."""
        before, self.mode = self.mode, mode
        try:
            yield
        finally:
            self.mode = before

    @property
    def metrics(self):
        scores = self.__dict__.get("scores")
        return [] if scores is None else scores.metrics(self.mode == "test")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Returns the student's label loss with regularization, the `loss` of `evaluate`."""
        return self.scores.compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Calls the student's `compute_metrics`."""
        return self.scores.compute_metrics(x, y, y_pred, sample_weight)

    # Before the first step and in each step

    def look(self, data):
        """Prepares the objective with a batch, and builds what trains beside the student."""
        if data is None:
            raise ValueError("The dataset is empty. Give `fit` at least one batch.")
        with _backend.scope_of(self):
            batch = self.unpacked(data)
            output = self.objective.prepare(batch)
            self.scores.follow_terms()  # the batch may have chosen the default terms
            if not self.run_eagerly:  # else nothing is traced
                self.scores.build(batch, output)
            self.kept.hold(self.objective.own_layers())
            self.built, self._look_due = True, False
            if self.optimizer is not None and not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)
        if self._loaded is not None:
            self._take(self._loaded)
        waiting, self._waiting = self._waiting, []
        for function in waiting:
            function()

    def when_built(self, function):
        """Calls a function without arguments when all that trains is built, or now if it is."""
        if self.look_is_due:
            self._waiting.append(function)
        else:
            function()

    def go_to_place(self, epoch_iterator, local=None):
        """Brings the data of `fit` to the place where it begins.

        Args:
            epoch_iterator: the epoch iterator of `fit`.
            local: a function of a batch that returns this replica's part. Defaults to `None`: all
                of it.
        """

        def seen(batch):
            if self.look_is_due or self.goes_on:  # in the same order as at the beginning
                batch = batch if local is None else local(batch)
                if self.look_is_due:
                    self.look(batch)
                trainer.build_compiled(self, batch)  # metrics have values already

        if self.mode == "train" and self._place is not None and epoch_iterator is not None:
            place = self._place
            begins, ends = (functools.partial(resuming.set_generators, states)
                            for states in (place.epoch_generators, place.generators))  # fmt: skip
            epochs.go_to(epoch_iterator, place.epoch, place.step, seen, begins, ends)

    @property
    def look_is_due(self):
        """Whether the next step needs a look at a batch: for terms, or an unbuilt student."""
        return self.mode == "train" and self._look_due and bool(self.terms or not self.built)

    @property
    def goes_on(self):
        """Whether a `fit` begins in the middle of an epoch."""
        return self.mode == "train" and self._place is not None and self._place.step > 0

    def unpacked(self, data):
        """Returns the data that Keras passes to a step, as a `Batch` of tensors."""
        batch = tree.map_structure(
            lambda v: ops.convert_to_tensor(v) if isinstance(v, np.ndarray) else v,
            Batch.unpack(data),
        )
        if self._class_weight is None:
            return batch
        return batch._replace(sample_weight=weights.by_class(batch.labels, self._class_weight))

    # Files and summaries

    def save(self, *args, **kwargs):
        """Saves the student without its compile state; the file loads without this package."""
        with compiling.not_compiled(self.student):
            self.student.save(*args, **kwargs)

    def export(self, *args, **kwargs):
        """Exports the student. It takes its own preprocessor's outputs, with masks as booleans."""
        if preprocessor_of(self.student) is not None:
            kwargs.setdefault("input_signature", signature_of(self.student))
        self.student.export(*args, **kwargs)

    def save_weights(self, filepath, *args, **kwargs):
        """Saves the student's weights as the student does, with the state that resuming needs."""
        self._weights_file().save(filepath, *args, **kwargs)

    def load_weights(self, filepath, *args, **kwargs):
        """Loads the student's weights, and the state in the file that fits this distiller."""
        found = self._weights_file().load(filepath, *args, **kwargs)
        late = {term.name for term in self.objective.waiting()}
        if not any(name.partition("/")[0] in late for name in found):
            self._take(found)
        elif self.mode == "train":  # a callback resumes: the first batch comes later
            self._loaded = found
        else:
            raise ValueError(
                "The projectors are not built yet. Call `fit(data, epochs=0)` before "
                "`load_weights`."
            )

    def _take(self, found):
        """Assigns the arrays of a weights file to what trains or moves beside the student."""
        self._loaded, kept = None, self.kept_layers()
        for name in kept.keys() & found.keys():
            assign(kept[name], found[name], name)
        if OPTIMIZER in found and self.optimizer is not None:
            arrays = {str(index): array for index, array in enumerate(found[OPTIMIZER])}
            self.optimizer.load_own_variables(arrays)

    def _weights_file(self):
        return WeightsFile(self.student, getattr(self, "optimizer", None), self.kept_layers())

    def changing_variables(self):
        """Returns all variables that change in training, once each, in a fixed order."""
        layers = self.kept_layers()
        found = [*self.student.variables]
        found += [variable for name in sorted(layers) for variable in layers[name].variables]
        found += [*self.variables, *(() if self.optimizer is None else self.optimizer.variables)]
        knobs = (knob.value for knob in self.objective.knobs())
        found += [value for value in knobs if isinstance(value, keras.Variable)]
        return [*{id(variable): variable for variable in found}.values()]

    def variables_of_logs(self):
        """Returns the variables of the running epoch's means and metrics, once each."""
        metrics = self.scores.metrics(evaluates=False)
        found = [variable for metric in metrics for variable in metric.variables]
        return [*{id(variable): variable for variable in found}.values()]

    def kept_layers(self):
        """Returns `{name in a weights file: layer}` of what trains or moves beside the student."""
        kept = {f"{term}/{part}": layer for term, made in self.objective.layers.items()
                for part, layer in made.items()}  # fmt: skip
        kept |= {f"teacher {name}/{index}": layer for name, each in self.teachers.items()
                 for index, layer in enumerate(each.state)}  # fmt: skip
        return kept | {f"number {name}": layer for name, layer in self.kept.numbers.items()}

    def save_own_variables(self, store):
        """Raises an error: `keras.saving.save_weights` writes files that no student can load."""
        raise NotImplementedError(
            "`keras.saving.save_weights` and `load_weights` cannot save a distiller. "
            "Call `distiller.save_weights(path)` and `distiller.load_weights(path)`."
        )

    load_own_variables = save_own_variables

    def get_config(self):
        raise NotImplementedError(
            "A distiller has no config, so it cannot be saved whole. Save the student with "
            "`distiller.save(path)`. Give `OrbaxCheckpoint` the argument `save_weights_only=True`."
        )

    def get_compile_config(self):
        """Calls the student's `get_compile_config`."""
        return self.judged.get_compile_config()

    def compile_from_config(self, config):
        """Compiles with the config that `get_compile_config` returned."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built and self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def summary(self, *args, print_fn=None, **kwargs):
        """Prints the student's summary, then teachers and terms with the places that they tap."""
        self.student.summary(*args, print_fn=print_fn, **kwargs)
        (print_fn or print)(self.objective.describe())

    @property
    def layers(self):
        """The student's layers."""
        return self.student.layers

    def __getattr__(self, name):
        """Looks in the student for attributes like `output_names`, `inputs` and `generate`."""
        above = getattr(super(), "__getattr__", None)  # PyTorch's modules have one
        if above is not None:
            with contextlib.suppress(AttributeError):
                return above(name)
        if name.startswith("_") or name in ("student", "objective", "scores"):
            raise AttributeError(f"A distiller has no attribute `{name}`.")
        return getattr(self.student, name)
