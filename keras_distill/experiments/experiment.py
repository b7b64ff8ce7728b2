"""An experiment trains one student alone and distilled, over several seeds, and compares them."""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_distill import _backend, _files, report
from keras_distill._keras import trainer
from keras_distill._messages import say
from keras_distill.callbacks import ScheduleLogger
from keras_distill.data import without_autotune
from keras_distill.experiments import cached
from keras_distill.experiments.arguments import (
    check_loads,
    checked_count,
    checked_maker,
    checked_model,
    checked_task,
    checked_terms,
)
from keras_distill.experiments.comparison import ARMS, compare, held, measured
from keras_distill.experiments.devices import Devices, check_batches
from keras_distill.experiments.progress import Progress
from keras_distill.experiments.run_folder import described
from keras_distill.experiments.runner import Arm, Runner, checked_seeds
from keras_distill.report import page as report_page
from keras_distill.report.tasks import Numbers
from keras_distill.schedules import Hyperparameter, check, is_number
from keras_distill.training.distiller import Distiller
from keras_distill.training.first_look import build
from keras_distill.training.guard import NotFinite
from keras_distill.training.term import teacher_paths

METRICS = {"classes": ("accuracy",), "numbers": ("mean_absolute_error",)}


class Experiment:
    """Trains a teacher, then the same student alone and distilled, and reports the difference.

    For every seed both students begin with the same weights and see the same data in the same
    order for the same number of epochs. They differ only by the teacher.

    Args:
        name: the name of the exported student.
        student: a function without arguments that makes the student. It is called for each seed.
        teacher: a function without arguments that makes the teacher, which is trained once. With
            `teacher_epochs=0` it returns a trained teacher, for instance with
            `keras.saving.load_model`.
        data: a function from "train", "valid" or "test" to a batched `tf.data.Dataset` of
            `(x, labels)`. The models have one output, `(batch, classes)`, `(batch, 1)` for yes or
            no, or `(batch, numbers)` for a regression. With axes between these, such as
            `(batch, tokens, classes)`, each token or pixel is an answer, unless its sample weight
            (a third part of the batch) is 0. A shuffle without a seed uses the experiment's seed.
        terms: a list of `Term`s, or a function `(student, teacher)` that returns one. Terms with
            weights need a function, which is called for each seed. By default the outputs are
            compared at temperature 2 (Hinton), and those of a regression by the squared error.
        alpha: the share of the terms in the loss, in [0, 1], a number or a schedule.
        optimizer: a function without arguments that makes the optimizer, called for each seed.
        loss: the loss on the labels, as `compile` takes it.
        metrics: the metrics, as `compile` takes them, or a function that makes them. Defaults to
            `"auto"`, which is the accuracy of classes and the mean absolute error of numbers.
        epochs: the number of epochs of each student.
        seeds: the number of seeds, or a list of them. A finished run can be resumed with more.
        teacher_epochs: the number of epochs of the teacher, by default `epochs`. 0 is for a
            trained teacher.
        teacher_optimizer: like `optimizer`, for the teacher. By default `optimizer`.
        task: `"classes"`, which are judged by accuracy, or `"numbers"`, a regression, which is
            judged by R squared. By default `"numbers"` if `loss` is one of Keras's losses on
            numbers, such as `"mse"`, and `"classes"` otherwise.

    Raises:
        TypeError: if an argument that must be a function is none.
        ValueError: if a number is out of its range, the task is unknown, the name cannot name a
            folder, or the terms are a list with weights, which the seeds would share.

    Example:

    ```python
    experiment = Experiment(
        "digits",
        student=lambda: keras.models.clone_model(student),
        teacher=lambda: keras.models.clone_model(teacher),
        data=lambda split: dataset,  # of "train", "valid" or "test"
        optimizer=keras.optimizers.Adam,
        loss=loss,
        epochs=20,
    )
    results = experiment.run("runs/digits")
    ```
    """

    def __init__(
        self,
        name: str,
        *,
        student: Callable[[], keras.Model],
        teacher: Callable[[], keras.Model],
        data: Callable[[str], Any],
        terms: Any = None,
        alpha: Hyperparameter = 0.5,
        optimizer: Callable[[], Any],
        loss: Any,
        metrics: Any = "auto",
        epochs: int,
        seeds: int | Sequence[int] = 3,
        teacher_epochs: int | None = None,
        teacher_optimizer: Callable[[], Any] | None = None,
        task: str | None = None,
    ):
        self.name, self.terms = _files.checked_name("name", name), checked_terms(terms)
        self.loss, self.task = loss, checked_task(task, loss)
        self.metrics = METRICS[self.task.name] if _is_auto(metrics) else metrics
        self.student = checked_maker("student", student)
        self.teacher = checked_maker("teacher", teacher)
        self._data = checked_maker("data", data, "split")
        self.optimizer = checked_maker("optimizer", optimizer)
        self.teacher_optimizer = checked_maker("teacher_optimizer", teacher_optimizer or optimizer)
        self.alpha = check("alpha", alpha, low=0, high=1)
        self.epochs = checked_count("epochs", epochs, 1)
        given = epochs if teacher_epochs is None else teacher_epochs
        self.teacher_epochs = checked_count("teacher_epochs", given, 0)
        self.seeds = checked_seeds(seeds)
        self.origin = {}  # its file and options, as in `run.json`
        self.given = []  # their paths, which no run may delete
        self.devices = Devices()

    def run(self, folder, *, overwrite=False, resume=False, command=None, callbacks=None,
            cache=None, strategy=None):  # fmt: skip
        """Trains all arms, compares them on the test split and writes everything to `folder`.

        Each trained model is written at once. An interrupted run continues with `resume=True`.
        Only the model whose training was interrupted starts again, so a resumed run gives the
        numbers of an uninterrupted one. A run can be resumed only with the same settings. You may
        add seeds after the others.

        Args:
            folder: the folder to write. It may hold a run only if `overwrite` or `resume` is true.
            overwrite: whether to delete the run in `folder` first.
            resume: whether to continue the run in `folder`.
            command: the command line, for the report.
            callbacks: a function without arguments that makes callbacks for each `fit`.
            cache: a folder of the teacher's targets on the training split, from which the students
                train. If it holds none, they are written first. By default the teacher runs live.
            strategy: a `tf.distribute.Strategy` to train with. A batch is that of all replicas
                together. Each worker makes this call with the same shared folder, and the first
                one writes and compares. Defaults to `None`, which is one device.

        Returns:
            The results, as `report.json` holds them; `None` on the other workers.

        Raises:
            FileExistsError: if `folder` holds a run, and neither `overwrite` nor `resume` is true.
            ValueError: if the run in `folder` has other settings.
            TypeError: if `student` or `teacher` returns no model, or a model that cannot be loaded.
            ImportError: if matplotlib, which draws the report's plots, is not installed.
        """
        report_page.check_plots()
        self.devices = Devices(strategy)
        test = functools.cache(lambda: held(self.data("test")))
        runner = self._runner(folder, test, callbacks, cache)
        runner.check(overwrite=overwrite, resume=resume)
        if not (resume and runner.is_trained("teacher")):
            self.rehearse()  # before an existing run is deleted
        if cache is not None:
            _files.check_writable(cache)
        with runner.folder.alone() if self.devices.write else contextlib.nullcontext():
            self.devices.wait()  # until all have seen the present files
            if self.devices.write:
                runner.open(overwrite=overwrite, resume=resume)
            self.devices.wait()
            teacher = runner.model("teacher")
            if cache is not None and self.devices.write:
                cached.prepare(teacher, self.data("train"), cache, self.teacher_paths(teacher))
            self.devices.wait()
            runner.train()
            if not self.devices.write:
                return None
            about = {"name": self.name, "settings": self._described(), "command": command or ""}
            return compare(runner, about, self.data("valid"), test(), self.task)

    def _runner(self, folder, test, callbacks, cache):
        """Returns the runner that trains and measures the three arms."""
        teacher = functools.cache(lambda: runner.model("teacher"))

        def alike(seed, model, model_of):
            return measured(model, test(), teacher(), self.task)

        def teachers(seed, model, model_of):
            return measured(model, test(), None, self.task)

        arms = {"teacher": Arm(lambda *_: self.trained_teacher(callbacks), teachers, once=True)}
        for arm in ARMS:
            arms[arm] = Arm(functools.partial(self._train_student, arm, callbacks, cache), alike)
        settings = {**self._settings(), "cached": cache is not None}
        given = [*self.given, *([] if cache is None else [cache])]
        runner = Runner(arms, seeds=self.seeds, folder=folder, settings=settings, given=given,
                        devices=self.devices)  # fmt: skip
        return runner

    def measure(self, model, split):
        """Returns the measures of a model on a split, as `report.measure` does."""
        return report.measure(model, self.data(split), task=self.task.name)

    def data(self, split):
        """Returns the batches of a split."""
        return without_autotune(self._data(split))

    def _settings(self):
        settings = {"name": self.name, "epochs": self.epochs}
        settings["teacher_epochs"] = self.teacher_epochs
        settings["alpha"] = described(self.alpha)
        return {**settings, "seeds": self.seeds, "training": self._training(), **self.origin}

    def _training(self):
        """Returns further settings of the training; a function's content shows in its file only."""
        terms = self.terms if callable(self.terms) else [_parts(term) for term in self.terms or ()]
        teachers = self.teacher_optimizer() if self.teacher_epochs else None
        return described({
            "optimizer": self.optimizer(), "teacher_optimizer": teachers, "loss": self.loss,
            "metrics": self.metrics, "terms": terms,
        })  # fmt: skip

    def _described(self):
        """Returns the settings as the report shows them."""
        settings = self._settings()
        for name in ("files", "training"):
            settings.pop(name, None)
        settings = {"name": self.name, **settings.pop("options", {}), **settings}
        return {key: value for key, value in settings.items() if value is not None}

    def teacher_paths(self, teacher):
        """Returns the paths that the terms read in the teacher."""
        terms = self.terms
        terms = terms(self.built_student(), teacher) if callable(terms) else terms
        return ["output"] if terms is None else teacher_paths(terms).get("teacher", ["output"])

    def rehearse(self, splits=("valid", "test")):
        """Runs all parts once, so that errors are raised before any training."""
        for split in ("train", *splits):
            check_batches(split, self.data(split))
        with self.devices.scope():
            teacher = checked_model("teacher", self.teacher())
            student = self.built_student()
            for name, model in (("teacher", teacher), ("student", student)):
                check_loads(name, model)
            model = self._distiller(student, teacher)
            self._compile(model, self.optimizer)
        model.fit(self.data("train"), epochs=0, shuffle=False, verbose=0)
        for split in () if self.devices.are_workers else splits:  # each would predict for all
            batch = list(itertools.islice(self.data(split), 1))
            if self.task is Numbers:  # R squared needs more examples than one batch may hold
                report.predictions(student, batch, self.task.name)
            else:
                report.measure(student, batch, teacher)

    def trained_teacher(self, callbacks=None):
        """Trains the teacher unless `teacher_epochs` is 0; returns `(model, training record)`."""
        keras.utils.set_random_seed(self.seeds[0])
        train = self.data("train")
        with self.devices.scope():
            teacher = checked_model("teacher", self.teacher())
        if self.teacher_epochs == 0:
            say("The teacher is used without further training.")
            return teacher, {"history": {}, "seconds": 0.0}
        say(f"Training the teacher for {self.teacher_epochs} epochs.")
        with self.devices.scope():
            model = self._by_labels(teacher)
            self._compile(model, self.teacher_optimizer)
        return teacher, self._fit(teacher, model, train, self.teacher_epochs, callbacks)

    def prepared(self, arm, seed, teacher, cache=None):
        """Returns `(student, compiled model, training data)` for the training of a student.

        Args:
            arm: "alone" or "distilled".
            seed: the seed of weights and order.
            teacher: the trained teacher. A student alone does not use it.
            cache: a folder of its targets, or `None` to run it live.
        """
        keras.utils.set_random_seed(seed)
        train = self.data("train")
        with self.devices.scope():
            student = self.built_student()
            if arm == "distilled":
                source, train = cached.from_cache(train, cache) if cache else (teacher, train)
                model = self._distiller(student, teacher, source)
            else:
                model = self._by_labels(student)
            self._compile(model, self.optimizer)
            if model is student and self.devices.strategy is None:
                _build_early(student, train)
        return student, model, train

    def built_student(self, **options):
        """Returns a student with its weights, which a subclass of `Model` makes when called."""
        student = checked_model("student", self.student(**options))
        if not student.built:
            batch = next(iter(self.data("train")))
            build(student, keras.utils.unpack_x_y_sample_weight(batch)[0])
        return student

    def _by_labels(self, model):
        """Returns the model that trains on labels alone; Keras's own cannot use workers."""
        wrapped = self.devices.are_workers and not trainer.runs_on_workers()
        return Distiller(model, alpha=0) if wrapped else model

    def _train_student(self, arm, callbacks, cache, seed, model_of):
        with self.devices.scope():
            teacher = model_of("teacher") if arm == "distilled" else None
        say(f"Training the student, {arm}, seed {seed}, for {self.epochs} epochs.")
        student, model, train = self.prepared(arm, seed, teacher, cache)
        try:
            return student, self._fit(student, model, train, self.epochs, callbacks)
        except NotFinite as error:
            say(f"This training failed. {error}")
            return student, {"history": {}, "seconds": 0.0, "failed": str(error)}

    def _distiller(self, student, teacher, source=None):
        """Returns a distiller with terms made for `teacher`, whose targets come from `source`."""
        terms = self.terms(student, teacher) if callable(self.terms) else self.terms
        return Distiller(student, teacher=source or teacher, terms=terms, alpha=self.alpha)

    def _compile(self, model, optimizer):
        metrics = self.metrics() if callable(self.metrics) else self.metrics
        metrics = list(metrics) if isinstance(metrics, tuple) else metrics
        model.compile(optimizer(), self.loss, metrics=metrics)

    def _fit(self, judged, model, train, epochs, callbacks):
        """Trains a model around the judged one; returns the record of its training."""
        started = time.time()
        history = model.fit(
            train,
            validation_data=self.data("valid"),
            epochs=epochs,
            shuffle=False,  # the dataset shuffles itself
            verbose=0,
            callbacks=[Progress(epochs), *_loggers(model), *(callbacks() if callbacks else [])],
        )
        logs = {name: [float(v) for v in values] for name, values in history.history.items()}
        record = {"history": logs, "seconds": time.time() - started}
        if not report.is_finite(judged):
            record["failed"] = "Its weights are not finite."
            say("This training failed. The weights are not finite.")
        return record


def _build_early(student, dataset):
    """Builds optimizer and metrics before the first step, which TensorFlow would trace twice.

    A distiller does so itself.
    """
    spec = getattr(dataset, "element_spec", None)  # a PyDataset has none
    if _backend.NAME == "tensorflow" and spec is not None and student.built:
        trainer.build_compiled(student, spec)


def _is_auto(metrics):
    return isinstance(metrics, str) and metrics == "auto"


def _parts(term):
    return {name: value for name, value in vars(term).items() if not name.startswith("_")}


def _loggers(model):
    """Returns loggers of alpha, weights and temperatures, if one of them changes in training."""
    knobs = model.objective.knobs() if isinstance(model, Distiller) else []
    changing = any(not is_number(knob.value) for knob in knobs)
    return [ScheduleLogger()] if changing else []
