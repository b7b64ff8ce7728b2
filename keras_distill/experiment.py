"""An experiment: one student trained alone and distilled, over several seeds, and compared."""

import inspect
import json
import os
import pathlib
import re
import shutil
import sys
import time

import keras
import numpy as np

from keras_distill import export, report
from keras_distill.data import in_experiment
from keras_distill.distiller import Distiller

ARMS = ("alone", "distilled")
RUN = "run.json"  # marks a folder that holds a run
WRITTEN = (RUN, "arms", "report.html", "report.json", "student.keras", "teacher.keras", "serving")


class Experiment:
    """Trains a teacher, then the same student alone and distilled, and reports the difference.

    For every seed both arms begin with the same weights and see the same data in the same order
    for the same number of epochs, so that the teacher is all that differs.

    Args:
        name: What the exported student is called.
        student: A function without arguments that makes the student, called anew for each seed.
        teacher: The same for the teacher, which is trained once.
        data: A function from "train", "valid" or "test" to a batched `tf.data.Dataset` of
            `(x, labels)`. A shuffle without a seed of its own follows the experiment's.
        terms: What is distilled: a list of `Term`s, or a function `(student, teacher)` that
            returns one. By default Hinton's: the outputs, at temperature 2.
        alpha: The share of the terms in the loss, from 0 to 1: a number or a schedule.
        optimizer: A function without arguments that makes the optimizer, called for each seed.
        loss: The loss on the labels, as `compile` takes it.
        metrics: The metrics, as `compile` takes them, or a function that makes them.
        epochs: How often each student sees the training data.
        seeds: How many seeds, or a list of them.
        teacher_epochs: The teacher's epochs, by default `epochs`; 0 for one that is trained.
        teacher_optimizer: The same as `optimizer` for the teacher, by default `optimizer`.

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
        makers = {"student": student, "teacher": teacher, "data": data, "optimizer": optimizer}
        for what, maker in makers.items():
            if not callable(maker) or isinstance(maker, (keras.Model, keras.optimizers.Optimizer)):
                raise TypeError(f"`{what}` must be a function. Received: {what}={maker!r}")
        if not re.fullmatch(r"[A-Za-z][\w.-]*", name):
            raise ValueError(f"`name` must be usable as a folder's name. Received: name={name!r}")
        self.name, self.alpha, self.terms = name, alpha, terms
        self.student, self.teacher, self.data = student, teacher, data
        self.optimizer = optimizer
        self.teacher_optimizer = teacher_optimizer or optimizer
        self.loss, self.metrics = loss, metrics
        self.epochs = epochs
        self.teacher_epochs = epochs if teacher_epochs is None else teacher_epochs
        self.seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
        if not self.seeds:
            raise ValueError(f"`seeds` must name at least one seed. Received: seeds={seeds!r}")

    def run(self, folder, *, overwrite=False, resume=False, command=None, callbacks=None,
            cache=None):  # fmt: skip
        """Trains all arms, compares them on the test split and writes everything to `folder`.

        Each trained model is written at once. An interrupted run goes on with `resume=True`:
        only the model whose training was cut off is trained again from its beginning, so that
        a resumed run ends with the numbers of an uninterrupted one.

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
        """
        folder = pathlib.Path(folder)
        self._open(folder, overwrite, resume)
        self._train_teacher(folder, callbacks)
        if cache is not None:
            in_experiment.prepare(self, _load(folder, "teacher"), cache)
        for seed in self.seeds:
            for arm in ARMS:
                self._train_student(folder, arm, seed, callbacks, cache)
        return self._finish(folder, command)

    # The run's folder

    def _settings(self):
        settings = {"name": self.name, "epochs": self.epochs}
        settings["teacher_epochs"] = self.teacher_epochs
        settings["alpha"] = self.alpha if isinstance(self.alpha, (int, float)) else str(self.alpha)
        return settings

    def _open(self, folder, overwrite, resume):
        held = [name for name in WRITTEN if (folder / name).exists()]
        if resume and RUN in held:
            before = json.loads((folder / RUN).read_text())
            if before != self._settings():
                raise ValueError(f"{folder} holds a run with other settings: {before}. "
                                 f"Received: {self._settings()}")  # fmt: skip
            return
        if held and not overwrite:
            raise FileExistsError(f"{folder} already holds a run: overwrite or resume it.")
        for name in held:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (folder / "arms").mkdir(parents=True, exist_ok=True)
        _write_json(folder / RUN, self._settings())

    def _train_teacher(self, folder, callbacks):
        if _is_trained(folder, "teacher"):
            return
        print(f"Training the teacher for {self.teacher_epochs} epochs.", flush=True)
        keras.utils.set_random_seed(self.seeds[0])
        train = self.data("train")
        teacher = self.teacher()
        teacher.compile(self.teacher_optimizer(), self.loss, metrics=self._new_metrics())
        self._fit(folder, "teacher", teacher, teacher, train, self.teacher_epochs, callbacks)

    def _train_student(self, folder, arm, seed, callbacks, cache=None):
        key = f"{arm}-{seed}"
        if _is_trained(folder, key):
            return
        teacher = _load(folder, "teacher") if arm == "distilled" else None
        print(f"Training the student, {arm}, seed {seed}, for {self.epochs} epochs.", flush=True)
        keras.utils.set_random_seed(seed)
        train = self.data("train")
        model = student = self.student()
        if arm == "distilled":
            terms = self.terms(student, teacher) if callable(self.terms) else self.terms
            if cache is not None:
                teacher, train = in_experiment.from_cache(train, cache)
            model = Distiller(student, teacher=teacher, terms=terms, alpha=self.alpha)
        model.compile(self.optimizer(), self.loss, metrics=self._new_metrics())
        self._fit(folder, key, model, student, train, self.epochs, callbacks)

    def _new_metrics(self):
        return self.metrics() if callable(self.metrics) else list(self.metrics)

    def _fit(self, folder, key, model, student, train, epochs, callbacks):
        """Trains `model` and keeps `student`, the part of it that is wanted."""
        started = time.time()
        history = model.fit(
            train,
            validation_data=self.data("valid"),
            epochs=epochs,
            shuffle=False,  # the dataset shuffles itself
            verbose=1 if sys.stdout.isatty() else 2,
            callbacks=callbacks() if callbacks else None,
        )
        unfinished = folder / "arms" / f"{key}.unfinished.keras"
        student.save(unfinished)
        os.replace(unfinished, folder / "arms" / f"{key}.keras")
        logs = {name: [float(v) for v in values] for name, values in history.history.items()}
        record = {"history": logs, "seconds": time.time() - started}
        _write_json(folder / "arms" / f"{key}.json", record)  # last: it marks the model as trained

    # The comparison

    def _finish(self, folder, command):
        test = self.data("test")
        results = self._measured(folder, test)
        results["command"] = command or ""
        best = self._best(folder)
        models = {
            "teacher": _load(folder, "teacher"),
            "alone": _load(folder, f"alone-{best}"),
            "distilled": _load(folder, f"distilled-{best}"),
        }
        images, labels = _arrays(test)
        log_probs = {arm: report.predictions(model, test)[0] for arm, model in models.items()}
        results["reliability"] = {
            arm: report.reliability(values, labels) for arm, values in log_probs.items()
        }
        results["doubts"] = []
        if isinstance(images, np.ndarray) and images.ndim in (3, 4):
            results["doubts"] = report.doubts(images, labels, log_probs)
        example = keras.tree.map_structure(lambda value: value[:1], images)
        results["latency"] = report.latency(models, example)
        self._export(folder, models, example)
        report.write(folder, results)
        print(report.table(report.summaries(results)))
        print(f"\nThe report: {folder / 'report.html'}")
        return results

    def _measured(self, folder, test):
        """Every trained model on the test split, beside its learning curves."""
        teacher = _load(folder, "teacher")
        keys = {"teacher": ["teacher"]}
        keys.update({arm: [f"{arm}-{seed}" for seed in self.seeds] for arm in ARMS})
        arms, seconds = {}, 0.0
        for arm, names in keys.items():
            arms[arm] = {"seeds": [], "history": []}
            for key in names:
                record = _read_json(folder / "arms" / f"{key}.json")
                model = _load(folder, key)
                measured = report.measure(model, test, None if arm == "teacher" else teacher)
                measured["size_bytes"] = report.size_on_disk(model)
                arms[arm]["seeds"].append(measured)
                arms[arm]["history"].append(record["history"])
                seconds += record["seconds"]
        settings = {**self._settings(), "seeds": self.seeds}
        return {"name": self.name, "settings": settings, "arms": arms, "seconds": seconds}

    def _best(self, folder):
        """The seed whose distilled student is the best on the validation split."""
        valid = self.data("valid")
        return max(
            self.seeds,
            key=lambda seed: report.measure(_load(folder, f"distilled-{seed}"), valid)["accuracy"],
        )

    def _export(self, folder, models, example):
        export.write_student(models["distilled"], folder / "student.keras")
        export.write_student(models["teacher"], folder / "teacher.keras")
        shutil.rmtree(folder / "serving", ignore_errors=True)
        path = export.write_saved_model(models["distilled"], folder / "serving", name=self.name)
        expected = models["distilled"].predict(example, verbose=0)
        export.check_saved_model(path, example, expected)


def load_experiment(path, options):
    """The `Experiment` that `experiment(**options)` of the Python file at `path` returns.

    Args:
        path: The file; modules beside it can be imported by it, as by a script.
        options: Arguments by name; one that the function does not take is refused.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No such experiment file: {path}")
    make = _namespace(path).get("experiment")
    if not callable(make):
        raise ValueError(f"{path} defines no function `experiment`.")
    parameters = inspect.signature(make).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in options:
            if name not in parameters:
                raise ValueError(f"{path} has no option `{name}`. "
                                 f"It has: {', '.join(parameters) or 'none'}.")  # fmt: skip
    return make(**options)


def _namespace(path):
    namespace = {"__name__": path.stem, "__file__": str(path)}
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        exec(compile(path.read_text(), str(path), "exec"), namespace)
    finally:
        sys.path.pop(0)
    return namespace


def _arrays(dataset):
    """All of a dataset's inputs and labels, in memory."""
    pairs = [(batch[0], batch[1]) for batch in dataset]
    return keras.tree.map_structure(
        lambda *parts: np.concatenate([np.asarray(part) for part in parts]), *pairs
    )


def _is_trained(folder, key):
    return (folder / "arms" / f"{key}.json").exists()


def _load(folder, key):
    return keras.saving.load_model(folder / "arms" / f"{key}.keras", compile=False)


def _read_json(path):
    return json.loads(path.read_text())


def _write_json(path, value):
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(value, indent=1))
    os.replace(unfinished, path)
