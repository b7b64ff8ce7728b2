"""An experiment: one student trained alone and distilled, over several seeds, and compared."""

import inspect
import itertools
import re
import sys
import time

import keras

from keras_distill import report
from keras_distill.data import without_autotune
from keras_distill.experiments import cached as in_experiment
from keras_distill.experiments.comparison import ARMS, compare
from keras_distill.experiments.run_folder import RunFolder, described
from keras_distill.report import page as report_page
from keras_distill.schedules import check
from keras_distill.training.distiller import Distiller


class Experiment:
    """Trains a teacher, then the same student alone and distilled, and reports the difference.

    For every seed both arms begin with the same weights and see the same data in the same order
    for the same number of epochs, so that the teacher is all that differs.

    Args:
        name: What the exported student is called.
        student: A function without arguments that makes the student, called anew for each seed.
        teacher: The same for the teacher, which is trained once, or, with `teacher_epochs=0`,
            returned as it is to be, for instance by `keras.saving.load_model`.
        data: A function from "train", "valid" or "test" to a batched `tf.data.Dataset` of
            `(x, labels)`; the models answer with one output, `(batch, classes)`. A shuffle without
            a seed of its own follows the experiment's.
        terms: What is distilled: a list of `Term`s, or a function `(student, teacher)` that
            returns one, called for each seed, as terms with weights of their own need. By default
            Hinton's: the outputs, at temperature 2.
        alpha: The share of the terms in the loss, from 0 to 1: a number or a schedule.
        optimizer: A function without arguments that makes the optimizer, called for each seed.
        loss: The loss on the labels, as `compile` takes it.
        metrics: The metrics, as `compile` takes them, or a function that makes them.
        epochs: How often each student sees the training data.
        seeds: How many seeds, or a list of them. A finished run can be resumed with more.
        teacher_epochs: The teacher's epochs, by default `epochs`; 0 for one that is trained
            already.
        teacher_optimizer: The same as `optimizer` for the teacher, by default `optimizer`.

    Raises:
        TypeError: What must be a function is none.
        ValueError: A number is out of its range, the name cannot name a folder, or a list of terms
            holds weights, which the seeds would share.

    Example:

    ```python
    experiment = Experiment("digits", student=small, teacher=big, data=data,
                            optimizer=keras.optimizers.Adam, loss=loss, epochs=20)
    results = experiment.run("runs/digits")
    ```
    """

    def __init__(self, name, *, student, teacher, data, terms=None, alpha=0.5, optimizer, loss,
                 metrics=("accuracy",), epochs, seeds=3, teacher_epochs=None,
                 teacher_optimizer=None):  # fmt: skip
        if not re.fullmatch(r"[A-Za-z][\w.-]*", name):
            raise ValueError(f"`name` must be usable as a folder's name. Received: name={name!r}")
        _check_terms(terms)
        self.name, self.terms, self.loss, self.metrics = name, terms, loss, metrics
        self.student, self.teacher = _maker("student", student), _maker("teacher", teacher)
        self._data, self.optimizer = _maker("data", data, "split"), _maker("optimizer", optimizer)
        self.teacher_optimizer = _maker("teacher_optimizer", teacher_optimizer or optimizer)
        self.alpha = check("alpha", alpha, low=0, high=1)
        self.epochs = _count("epochs", epochs, 1)
        given = epochs if teacher_epochs is None else teacher_epochs
        self.teacher_epochs = _count("teacher_epochs", given, 0)
        self.seeds = _seeds(seeds)
        self.origin = {}  # the file and the options that it was read with, as `run.json` holds them

    def run(self, folder, *, overwrite=False, resume=False, command=None, callbacks=None,
            cache=None):  # fmt: skip
        """Trains all arms, compares them on the test split and writes everything to `folder`.

        Each trained model is written at once. An interrupted run goes on with `resume=True`:
        only the model whose training was cut off is trained again from its beginning, so that
        a resumed run ends with the numbers of an uninterrupted one. A run is resumed only with
        the settings it began with; more seeds may be added behind the others.

        Args:
            folder: Where to write; it may hold no run unless one of the next two is true.
            overwrite: Whether to delete the run in `folder` first.
            resume: Whether to go on with the run in `folder`.
            command: The command line, for the report.
            callbacks: A function without arguments that makes callbacks for each `fit`.
            cache: A folder of the teacher's targets on the training split, from which the students
                train; where it holds none they are written first. By default the teacher is run.

        Returns:
            The results, as `report.json` holds them.

        Raises:
            FileExistsError: `folder` holds a run that is neither to go on nor to be deleted.
            ValueError: The run in `folder` has other settings.
            TypeError: `student` or `teacher` returns no model, or one that cannot be loaded again.
            ImportError: matplotlib, which draws the report's plots, is not installed.
        """
        report_page.check_plots()
        run = RunFolder(folder)
        settings = {**self._settings(), "cached": cache is not None}
        run.check(settings, overwrite=overwrite, resume=resume)
        if not (resume and run.is_trained("teacher")):
            self.rehearse()  # before a run that is there is deleted
        run.open(settings, overwrite=overwrite, resume=resume)
        if not run.is_trained("teacher"):
            self.keep_teacher(run, callbacks=callbacks)
        if cache is not None:
            in_experiment.prepare(self, run.model("teacher"), cache)
        for seed in self.seeds:
            for arm in ARMS:
                if not run.is_trained(f"{arm}-{seed}"):
                    self._train_student(run, arm, seed, callbacks, cache)
        about = {"name": self.name, "settings": self._described(), "command": command or ""}
        return compare(run, about, self.seeds, self.data)

    def data(self, split):
        """The batches of a split."""
        return without_autotune(self._data(split))

    def _settings(self):
        settings = {"name": self.name, "epochs": self.epochs}
        settings["teacher_epochs"] = self.teacher_epochs
        settings["alpha"] = described(self.alpha)
        return {**settings, "seeds": self.seeds, "training": self._training(), **self.origin}

    def _training(self):
        """What else the arms are trained by; what a function holds shows in its file only."""
        terms = self.terms if callable(self.terms) else [_parts(term) for term in self.terms or ()]
        return described({
            "optimizer": self.optimizer(), "teacher_optimizer": self.teacher_optimizer(),
            "loss": self.loss, "metrics": self.metrics, "terms": terms,
        })  # fmt: skip

    def _described(self):
        """The settings as the report shows them."""
        settings = self._settings()
        for name in ("files", "training"):
            settings.pop(name, None)
        settings = {"name": self.name, **settings.pop("options", {}), **settings}
        return {key: value for key, value in settings.items() if value is not None}

    def rehearse(self, splits=("valid", "test")):
        """Puts all parts together once, so that what does not fit is said before any training."""
        teacher, student = self._new_teacher(), _model("student", self.student())
        for name, model in (("teacher", teacher), ("student", student)):
            _check_loads(name, model)
        model = self._distiller(student, teacher)
        self._compile(model, self.optimizer)
        model.fit(self.data("train"), epochs=0, shuffle=False, verbose=0)
        for split in splits:
            report.measure(student, itertools.islice(self.data(split), 1), teacher)

    def _train_teacher(self, run, callbacks):
        keras.utils.set_random_seed(self.seeds[0])
        train = self.data("train")
        teacher = self._new_teacher()
        if self.teacher_epochs == 0:
            print("The teacher is taken as it is.", flush=True)
            run.keep("teacher", teacher, {"history": {}, "seconds": 0.0})
            return
        print(f"Training the teacher for {self.teacher_epochs} epochs.", flush=True)
        self._compile(teacher, self.teacher_optimizer)
        run.keep("teacher", teacher, self._fit(teacher, train, self.teacher_epochs, callbacks))

    def prepared(self, arm, seed, teacher, cache=None):
        """What trains a student: `(student, compiled model, training data)`.

        Args:
            arm: "alone" or "distilled".
            seed: Of weights and order.
            teacher: The trained teacher; a student alone does without.
            cache: A folder of its targets, or `None` to run it.
        """
        keras.utils.set_random_seed(seed)
        train = self.data("train")
        student = _model("student", self.student())
        model = student
        if arm == "distilled":
            cached, train = in_experiment.from_cache(train, cache) if cache else (None, train)
            model = self._distiller(student, teacher, cached)
        self._compile(model, self.optimizer)
        return student, model, train

    def keep_teacher(self, run, model=None, callbacks=None):
        """Puts the teacher into a run: a trained model, or the one that is trained here."""
        if model is None:
            self._train_teacher(run, callbacks)
        else:
            run.keep("teacher", model, {"history": {}, "seconds": 0.0})

    def _train_student(self, run, arm, seed, callbacks, cache):
        teacher = run.model("teacher") if arm == "distilled" else None
        print(f"Training the student, {arm}, seed {seed}, for {self.epochs} epochs.", flush=True)
        student, model, train = self.prepared(arm, seed, teacher, cache)
        run.keep(f"{arm}-{seed}", student, self._fit(model, train, self.epochs, callbacks))

    def _new_teacher(self):
        return _model("teacher", self.teacher())

    def _distiller(self, student, teacher, cached=None):
        terms = self.terms(student, teacher) if callable(self.terms) else self.terms
        return Distiller(student, teacher=cached or teacher, terms=terms, alpha=self.alpha)

    def _compile(self, model, optimizer):
        metrics = self.metrics() if callable(self.metrics) else self.metrics
        metrics = list(metrics) if isinstance(metrics, tuple) else metrics
        model.compile(optimizer(), self.loss, metrics=metrics)

    def _fit(self, model, train, epochs, callbacks):
        """Trains a model; returns the record of its training."""
        started = time.time()
        history = model.fit(
            train,
            validation_data=self.data("valid"),
            epochs=epochs,
            shuffle=False,  # the dataset shuffles itself
            verbose=1 if sys.stdout.isatty() else 2,
            callbacks=callbacks() if callbacks else None,
        )
        logs = {name: [float(v) for v in values] for name, values in history.history.items()}
        return {"history": logs, "seconds": time.time() - started}


def _parts(term):
    return {name: value for name, value in vars(term).items() if not name.startswith("_")}


def _check_terms(terms):
    """Refuses a list of terms that one seed would hand to the next with what it has learned."""
    for term in () if terms is None or callable(terms) else terms:
        if term.remembers:
            raise ValueError(
                "`terms` must be a function `(student, teacher)` where a term has a projector of "
                "its own or a loss that learns: each seed needs new ones. "
                f"Received: a list with {term!r}"
            )


def _maker(name, function, *takes):
    """The function, if it is one: a model or an optimizer can be called too, but makes none."""
    made = isinstance(function, (keras.Model, keras.optimizers.Optimizer))
    if made or not callable(function) or not _accepts(function, takes):
        what = f"of {takes[0]!r}" if takes else "without arguments"
        raise TypeError(f"`{name}` must be a function {what}. Received: {name}={function!r}")
    return function


def _accepts(function, arguments):
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True


def _count(name, value, least):
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}. "
                         f"Received: {name}={value!r}")  # fmt: skip
    return value


def _seeds(seeds):
    found = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not found or len(set(found)) < len(found) or not all(isinstance(s, int) for s in found):
        raise ValueError("`seeds` must name at least one seed, each once: a number of seeds or a "
                         f"list of integers. Received: seeds={seeds!r}")  # fmt: skip
    return found


def _model(name, made):
    if not isinstance(made, keras.Model):
        raise TypeError(
            f"`{name}` must return a `keras.Model`, which the run can save. A SavedModel or "
            "another function can teach through `ModelTeacher`, in a script of your own. "
            f"Received: {made!r}"
        )
    return made


def _check_loads(name, model):
    """Refuses a model whose classes are not registered: it could not be loaded after training."""
    try:
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise TypeError(
            f"`{name}` must return a model that can be saved and loaded again: register its "
            "classes by `@keras.saving.register_keras_serializable()` and give each a "
            f"`get_config`. Received: {model.name}, which fails: {reason[:300]}"
        ) from error
