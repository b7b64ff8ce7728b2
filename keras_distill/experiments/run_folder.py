"""A run's folder: its settings, its trained models, and what may be written over them."""

import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Sequence
from os import PathLike

import keras

from keras_distill import _files

RUN = "run.json"  # marks a folder that holds a run, and says which
IN_USE = ".in-use"  # held by the process that runs there
OWNER = "run"  # in run.json a name that no other run has; in a record whose it is
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
    a run that was killed at any moment goes on with the models that were finished. A record holds
    the name of its run: what another run has written there is not taken for this one's.

    Args:
        path: the folder; made by `open`.
        given: the paths of what the run reads, such as a cache. They count for no part of a run,
            and are never deleted. Defaults to none.

    Example:

    ```python
    folder = experiments.RunFolder("runs/digits", given=["runs/targets"])
    ```
    """

    def __init__(self, path: str | PathLike[str], given: Sequence[str] = ()):
        self.path = pathlib.Path(path)
        self.given = [pathlib.Path(os.path.abspath(each)) for each in given]

    def open(self, settings, *, overwrite=False, resume=False):
        """Begins a run with these settings, or goes on with the one that is there.

        Args:
            settings: what the run is trained by: a dict that JSON can hold, with a list `seeds`.
            overwrite: whether to delete a run that is there.
            resume: whether to go on with it. Its settings must be these; more seeds may follow.

        Raises:
            FileExistsError: where there is a run, or a part of one, and it is to be kept.
            OSError: where the folder cannot be written.
            ValueError: where the run to go on with has other settings: the message says which; or
                where something that is given lies in what is to be deleted.
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
        """Returns a context in which no other process runs in the folder: the second is refused."""
        return _files.alone(self.path / IN_USE, f"The run in {self.path}")

    def check(self, settings, *, overwrite=False, resume=False):
        """Raises what `open` would, and changes nothing."""
        held = self._held()
        if resume and RUN in held:
            self._same(settings)
        elif held and not overwrite:
            raise FileExistsError(_why_refused(self.path, held, resume))
        elif held:
            self._keep_given(held)

    def _held(self):
        """Returns the names in the folder that a run writes, without what was given."""
        own = [name for name in WRITTEN if (self.path / name).exists()]
        return [name for name in own if self._place(name) not in self.given]

    def _place(self, name):
        return pathlib.Path(os.path.abspath(self.path / name))

    def _keep_given(self, held):
        """Refuses to delete what the run is to read."""
        for name in held:
            inside = [each for each in self.given if self._place(name) in each.parents]
            if inside:
                raise ValueError(
                    f"Overwriting the run in {self.path} would delete {inside[0]}, which this run "
                    "reads. Choose another folder, or move that file."
                )

    def keep(self, key, model, record):
        """Writes a trained model without its optimizer, then what is known of its training."""
        compiled, model.compiled = model.compiled, False
        try:
            with _files.whole(self.file(key)) as part:
                model.save(part)
        finally:
            model.compiled = compiled
        record = {**record, OWNER: self.owner}
        write_json(self._record(key), record)  # last: it marks the model as trained

    @property
    def owner(self):
        """The name of the run in the folder, which its records hold; `None` where there is none."""
        settings = self._settings()
        return settings and settings[OWNER]

    def is_trained(self, key):
        """Returns whether this run has trained the model of this name to the end and kept it."""
        found = _files.read_json(self._record(key), {OWNER: str})
        return found is not None and found[OWNER] == self.owner and self.file(key).exists()

    def model(self, key):
        """Returns the trained model of this name, uncompiled."""
        return loaded(self.file(key))

    def record(self, key):
        """Returns what `keep` was given beside the model."""
        found = _files.read_json(self._record(key), {OWNER: str})
        return {name: value for name, value in found.items() if name != OWNER}

    def file(self, key):
        """Returns the path of the model of this name, a `pathlib.Path`."""
        return self.path / "arms" / f"{_file_name(key)}.keras"

    def _record(self, key):
        return self.path / "arms" / f"{_file_name(key)}.json"

    def _settings(self):
        """What the folder's run is trained by, and its name; `None` where there is no run."""
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
        for name in held:  # the mark goes first: what is left half deleted is no run
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _remove_unfinished(self):
        for path in [path for pattern in UNFINISHED for path in self.path.glob(pattern)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def loaded(path):
    """Returns the model of a `.keras` file, uncompiled.

    Raises:
        ValueError: the file is damaged, or holds what is not registered; the message names it.
    """
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # of whatever kind: Keras, h5py and zipfile have no common one
        said = " ".join(str(error).split())
        if "`Lambda` layer" in said:  # its code would run here, whoever wrote the file
            said = (
                "it holds a `Lambda` layer, and code in a model file is never run. Replace the "
                "layer with one of keras.layers or a registered class, and save the model again."
            )
        raise ValueError(f"{path} cannot be loaded as a Keras model: {said}") from error


def differences(before, now):
    """Returns what differs between a run's settings and others, a line each.

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
    """Returns a setting as JSON holds it: the same in every process that gives the same value."""
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
        return f"{path} holds parts of a run ({', '.join(held)}) but no {RUN}. Overwrite it."
    return f"{path} already holds a run. Overwrite it or resume it."


def write_json(path, value):
    """Writes what JSON can hold, whole or not at all."""
    _files.write_json(path, value)
