"""A run's folder: its settings, its trained models, and what may be written over them."""

import json
import os
import pathlib
import re
import shutil

import keras

from keras_distill import _files

RUN = "run.json"  # marks a folder that holds a run, and says which
EXAMPLES = "examples.npz"  # of the validation split, which exported students are tried on
WRITTEN = (
    RUN, "arms", "results.json", "report.html", "report.json", "student.keras", "teacher.keras",
    "serving", "trials", "targets", "ranking.json", "ranking.png", "winner.py", EXAMPLES,
    "default.json", "costs.json", "final", "compress.json", "pareto.png", "summary.md", "exported",
    "comparison.html", "comparison.md", "comparison.json",
)  # fmt: skip
UNFINISHED = (".tmp_*", f"{_files.UNFINISHED}*", f"*/{_files.UNFINISHED}*")


class RunFolder:
    """The files of one run: a model and a record for everything that was trained.

    What is written gets its name only once it is whole, and a record is written after its model:
    a run that was killed at any moment goes on with the models that were finished.

    Args:
        path: the folder; made by `open`.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)

    def open(self, settings, *, overwrite=False, resume=False):
        """Begins a run with these settings, or goes on with the one that is there.

        Args:
            settings: what the run is trained by: a dict that JSON can hold, with a list `seeds`.
            overwrite: whether to delete a run that is there.
            resume: whether to go on with it. Its settings must be these; more seeds may follow.

        Raises:
            FileExistsError: where there is a run, or a part of one, and it is to be kept.
            ValueError: where the run to go on with has other settings: the message says which.
        """
        self.check(settings, overwrite=overwrite, resume=resume)
        if not (resume and RUN in self._held()):
            self._remove(self._held())
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / RUN, settings)
        (self.path / "arms").mkdir(exist_ok=True)
        self._remove_unfinished()

    def check(self, settings, *, overwrite=False, resume=False):
        """Raises what `open` would, and changes nothing."""
        held = self._held()
        if resume and RUN in held:
            self._same(settings)
        elif held and not overwrite:
            raise FileExistsError(_why_refused(self.path, held, resume))

    def _held(self):
        return [name for name in WRITTEN if (self.path / name).exists()]

    def keep(self, key, model, record):
        """Writes a trained model without its optimizer, then what is known of its training."""
        compiled, model.compiled = model.compiled, False
        try:
            with _files.whole(self.file(key)) as part:
                model.save(part)
        finally:
            model.compiled = compiled
        write_json(self._record(key), record)  # last: it marks the model as trained

    def is_trained(self, key):
        """Whether the model of this name was trained to the end and kept."""
        return self._record(key).exists() and self.file(key).exists()

    def model(self, key):
        """The trained model of this name, uncompiled."""
        return keras.saving.load_model(self.file(key), compile=False)

    def record(self, key):
        """What `keep` was given beside the model."""
        return json.loads(self._record(key).read_text())

    def file(self, key):
        """The path of the model of this name, a `pathlib.Path`."""
        return self.path / "arms" / f"{_file_name(key)}.keras"

    def _record(self, key):
        return self.path / "arms" / f"{_file_name(key)}.json"

    def _same(self, settings):
        try:
            before = json.loads((self.path / RUN).read_text())
        except ValueError as error:
            raise ValueError(f"{self.path / RUN} cannot be read: overwrite the run.") from error
        found = differences(before, json.loads(json.dumps(settings)))
        if found:
            raise ValueError(
                f"{self.path} holds a run with other settings, and a run goes on only with its "
                f"own. Go on with those, or take another folder. Received: {'; '.join(found)}"
            )

    def _remove(self, held):
        for name in held:  # the mark goes first: what is left half deleted is no run
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _remove_unfinished(self):
        for path in [path for pattern in UNFINISHED for path in self.path.glob(pattern)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def differences(before, now):
    """What differs between a run's settings and others, a line each.

    More seeds may follow behind the others. Of the files those count that both runs have.

    Args:
        before: the run's settings, a dict of what JSON holds.
        now: the others.
    """
    seeds, files = before.get("seeds"), before.get("files", {})
    found = now.get("files", {})
    changed = [name for name in found if files.get(name, found[name]) != found[name]]
    more = seeds and now.get("seeds", [])[: len(seeds)] == seeds
    known = {"files", "seeds"} if more else {"files"}
    rest = [{name: value for name, value in each.items() if name not in known}
            for each in (before, now)]  # fmt: skip
    return [f"{name} has changed" for name in changed] + _files.differences(*rest)


def described(value):
    """A setting as JSON holds it: the same in every process that gives the same value."""
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    if isinstance(value, dict):
        return {str(key): described(item) for key, item in value.items()}
    if hasattr(value, "get_config"):
        config = {"class": type(value).__name__, **described(value.get_config())}
        return {key: item for key, item in config.items() if key != "name"}  # Keras counts names
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _file_name(key):
    return re.sub(r"[^\w.-]+", "_", key)


def _why_refused(path, held, resume):
    if resume:
        return f"{path} holds parts of a run ({', '.join(held)}) but no {RUN}: overwrite it."
    return f"{path} already holds a run: overwrite or resume it."


def write_json(path, value):
    """Writes what JSON can hold, whole or not at all."""
    _files.write_json(path, value)
