"""Trains one setting under one seed in pieces; every finished piece is on disk."""

import time

import keras

from keras_distill import _files, report
from keras_distill.experiments.run_folder import write_json
from keras_distill.experiments.tuning.live import Live
from keras_distill.training.guard import NotFinite

STEP = 7919  # the step between the seeds of a trial's pieces
FIELDS = {"score": (int, float), "nll": (int, float, type(None)), "run": (str, type(None))}


class Trial:
    """A student under one setting and seed.

    A piece starts from the weights and the optimizer state of the piece before, and with a seed of
    its own. So its result does not depend on how often the run was interrupted.

    Args:
        folder: the folder of records and states.
        name: the name of the files.
        arm: "alone" or "distilled".
        seed: a whole number.
        owner: the name of the run, which the records hold. Defaults to `None`.
        live: a `Live` that all trials of a search share. Defaults to none: each piece is traced
            anew.
    """

    def __init__(self, folder, name, arm, seed, owner=None, live=None):
        self.folder, self.name, self.seed = folder, f"{name}-{seed}", seed
        self.arm, self.owner = arm, owner
        self.live = live or Live()

    def record(self, end):
        """Returns this run's record after `end` epochs, or `None`."""
        found = _files.read_json(self._path(end, "json"), FIELDS)
        return found if found is None or found["run"] == self.owner else None

    def train(self, make, begin, end, teacher, cache):
        """Trains the experiment that `make()` returns from epoch `begin` to `end`.

        Returns the record. Finished work is not repeated, and a diverged training does not
        continue.
        """
        if self.record(end) is None and begin and "failed" in self.record(begin):
            write_json(self._path(end, "json"), {**self.record(begin), "epochs": end})
        if self.record(end) is None:
            # otherwise graphs of all trials stay in memory
            keras.backend.clear_session(free_memory=self.live.is_due())
            started = time.time()
            measured = self._train(make(), begin, end, teacher, cache)
            record = {"epochs": end, **measured, "seconds": time.time() - started}
            record["run"] = self.owner
            write_json(self._path(end, "json"), record)  # last: it marks the piece as trained
            self._path(begin, "weights.h5").unlink(missing_ok=True)
        return self.record(end)

    def _train(self, experiment, begin, end, teacher, cache):
        seed = self.seed + STEP * begin
        student, model, train = experiment.prepared(self.arm, seed, teacher, cache)
        if begin:
            self._restore(model, train, begin)
            kept = self.live.take(self._key(begin))
            if kept is not None and _is_same(kept[1], model):
                for variable, value in zip(_variables(kept[1]), _variables(model)):
                    variable.assign(value)
                student, model = kept  # whose step is traced
        try:
            model.fit(train, initial_epoch=begin, epochs=end, shuffle=False, verbose=0)
        except NotFinite as error:
            return {"score": 0.0, "nll": None, "failed": str(error)}
        finally:
            self.live.trained(student)
        if not report.is_finite(student):
            return {"score": 0.0, "nll": None, "failed": "Its weights are not finite."}
        if end < experiment.epochs:
            self._save(model, end)
            self.live.keep(self._key(end), student, model)
        measured = experiment.measure(student, "valid")
        score = 0.0 if "failed" in measured else measured[experiment.task.metric]
        return {"nll": None, **measured, "score": score}

    def _save(self, model, end):
        with _files.whole(self._path(end, "weights.h5")) as part:
            model.save_weights(part)

    def _restore(self, model, train, begin):
        model.fit(train, epochs=0, shuffle=False, verbose=0)  # builds projectors
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        path = self._path(begin, "weights.h5")
        try:
            model.load_weights(path)
        except Exception as error:  # Keras and h5py have no common one
            raise ValueError(
                f"{path} is damaged or missing ({error}). To train this trial again, delete the "
                f"files in {self.folder} whose names begin with {self.name}-."
            ) from error

    def _key(self, epochs):
        return f"{self.name}-{epochs}"

    def _path(self, epochs, kind):
        return self.folder / f"{self._key(epochs)}.{kind}"


def _variables(model):
    """All that a training changes: weights, seeds, metrics and the optimizer's state."""
    return [*model.variables, *model.optimizer.variables]


def _is_same(kept, model):
    """Whether one model's variables can take the values of the other's."""
    shapes, others = ([tuple(each.shape) for each in _variables(m)] for m in (kept, model))
    return shapes == others
