"""The folder of a run: its settings, its trained models, and protection against overwriting."""

import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Sequence
from os import PathLike

import keras

from keras_distill import _files
from keras_distill._keras import trainer

RUN = "run.json"  # marks a folder as a run, and identifies the run
IN_USE = ".in-use"  # the running process locks it
OWNER = "run"  # a key of run.json for a unique name; records hold the name of their run
EXAMPLES = "examples.npz"  # examples of the validation split, to check exported students
TARGETS, WEIGHTS = "targets", "sample_weight"  # beside the inputs in this file
INPUT = "inputs:"  # before the name of an input that would be read as something else
WRITTEN = (
    RUN, "arms", "results.json", "report.html", "report.json", "student.keras", "teacher.keras",
    "serving", "trials", "targets", "ranking.json", "ranking.png", "winner.py", EXAMPLES,
    "default.json", "costs.json", "final", "compress.json", "pareto.png", "summary.md", "exported",
    "exported.json", "comparison.html", "comparison.md", "comparison.json",
)  # fmt: skip
UNFINISHED = (".tmp_*", f"{_files.UNFINISHED}*", f"*/{_files.UNFINISHED}*")


class RunFolder:
    """The files of one run: a model and a record for everything that was trained.

    Every file gets its name when it is complete, and a record is written after its model. So a run
    that was killed at any moment continues with its finished models. A record holds the name of its
    run. Records of another run are not used.

    Args:
        path: the folder. `open` makes it.
        given: the paths of the run's inputs, such as a cache. They are no part of the run, and are
            never deleted. Defaults to none.

    Example:

    ```python
    folder = experiments.RunFolder("runs/digits", given=["runs/targets"])
    ```
    """

    def __init__(self, path: str | PathLike[str], given: Sequence[str] = ()):
        self.path = pathlib.Path(path)
        self.given = [pathlib.Path(os.path.abspath(each)) for each in given]

    def open(self, settings, *, overwrite=False, resume=False):
        """Begins a run with these settings, or continues the existing one.

        Args:
            settings: the settings of the training, a dict that JSON can hold, with a list `seeds`.
            overwrite: whether to delete an existing run.
            resume: whether to continue it. Its settings must be equal; you may append seeds.

        Raises:
            FileExistsError: if there is a run, or a part of one, and neither argument is true.
            OSError: if the folder cannot be written.
            ValueError: if the run to resume has other settings (the message names them), or a given
                path lies in the files to delete.
        """
        self.check(settings, overwrite=overwrite, resume=resume)
        owner = secrets.token_hex(8)
        if resume and RUN in self._held():
            owner = self._settings()[OWNER]
        else:
            self._remove(self._held())
        _files.check_writable(self.path)
        write_json(self.path / RUN, {**settings, OWNER: owner})
        (self.path / "arms").mkdir(exist_ok=True)
        self._remove_unfinished()

    def alone(self):
        """Returns a context that locks the folder; a second process gets an error."""
        _files.check_writable(self.path)
        return _files.alone(self.path / IN_USE, f"The run in {self.path}")

    def check(self, settings, *, overwrite=False, resume=False):
        """Raises the errors of `open`, and changes nothing."""
        held = self._held()
        if resume and RUN in held:
            self._same(settings)
        elif held and not overwrite:
            raise FileExistsError(_why_refused(self.path, held, resume))
        elif held:
            self._keep_given(held)

    def _held(self):
        """Returns the names in the folder that a run writes, without given paths."""
        own = [name for name in WRITTEN if (self.path / name).exists()]
        return [name for name in own if self._place(name) not in self.given]

    def _place(self, name):
        return pathlib.Path(os.path.abspath(self.path / name))

    def _keep_given(self, held):
        """Raises an error rather than delete the inputs of the run."""
        for name in held:
            inside = [each for each in self.given if self._place(name) in each.parents]
            if inside:
                raise ValueError(
                    f"Overwriting the run in {self.path} would delete {inside[0]}, which this run "
                    "reads. Choose another folder, or move that file."
                )

    def keep(self, key, model, record):
        """Writes a trained model without its optimizer, then the record of its training."""
        with trainer.uncompiled(model), _files.whole(self.file(key)) as part:
            model.save(part)
        record = {**record, OWNER: self.owner}
        write_json(self._record(key), record)  # last: it marks the model as trained

    @property
    def owner(self):
        """The name of the run in the folder, which its records hold; `None` without a run."""
        settings = self._settings()
        return settings and settings[OWNER]

    def is_trained(self, key):
        """Returns whether this run has finished and kept the model of this name."""
        found = _files.read_json(self._record(key), {OWNER: str})
        return found is not None and found[OWNER] == self.owner and self.file(key).exists()

    def model(self, key):
        """Returns the trained model of this name, uncompiled."""
        return loaded(self.file(key))

    def record(self, key):
        """Returns the record that `keep` got with the model."""
        found = _files.read_json(self._record(key), {OWNER: str})
        return {name: value for name, value in found.items() if name != OWNER}

    def file(self, key):
        """Returns the path of the model of this name, a `pathlib.Path`."""
        return self.path / "arms" / f"{_file_name(key)}.keras"

    def _record(self, key):
        return self.path / "arms" / f"{_file_name(key)}.json"

    def _settings(self):
        """Returns the settings and the name of the folder's run, or `None` without a run."""
        return _files.read_json(self.path / RUN, {"seeds": list, OWNER: str})

    def _same(self, settings):
        before = self._settings()
        del before[OWNER]
        found = differences(before, _files.plain(settings))
        if found:
            raise ValueError(
                f"{self.path} holds a run with other settings. A run can only be resumed with the "
                "same settings. Give those, or choose another folder. Received: "
                f"{'; '.join(found)}"
            )

    def _remove(self, held):
        for name in held:  # the mark goes first: a half-deleted folder is no run
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _remove_unfinished(self):
        for path in [path for pattern in UNFINISHED for path in self.path.glob(pattern)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def loaded(path):
    """Returns the model of a `.keras` file, uncompiled.

    Raises:
        ValueError: if the file is damaged or holds unregistered classes. The message names it.
    """
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras, h5py and zipfile have no common class of errors
        said = " ".join(str(error).split())
        if "`Lambda` layer" in said:  # loading it would run its author's code here
            said = (
                "it holds a `Lambda` layer, and code in a model file is never run. Replace the "
                "layer with one of keras.layers or a registered class, and save the model again."
            )
        raise ValueError(f"{path} cannot be loaded as a Keras model: {said}") from error


def differences(before, now):
    """Returns the differences between a run's settings and others, one per line.

    More seeds may follow after the others. Only files that both runs have are compared.

    Args:
        before: the run's settings, a dict of JSON values.
        now: the other settings.
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
    """Returns a setting as a JSON value that is the same in every process."""
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
        return {key: item for key, item in config.items() if key != "name"}  # Keras numbers names
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _file_name(key):
    return re.sub(r"[^\w.-]+", "_", key)


def _why_refused(path, held, resume):
    if resume:
        return f"{path} holds parts of a run ({', '.join(held)}) but no {RUN}. Overwrite it."
    return f"{path} already holds a run. Overwrite it or resume it."


def write_json(path, value):
    """Writes a JSON value, whole or not at all."""
    _files.write_json(path, value)
