"""Runs a comparison of any task: trains and measures its arms over seeds, in one folder."""

import typing
from collections.abc import Callable, Iterable, Sequence
from os import PathLike

import keras

from keras_distill import _files
from keras_distill._messages import say
from keras_distill.experiments.devices import Devices
from keras_distill.experiments.run_folder import RunFolder, described, loaded, write_json
from keras_distill.experiments.table import markdown, over_seeds


class Arm(typing.NamedTuple):
    """One arm of a comparison: a function that trains and a function that measures.

    Both functions get the seed and `model_of`, a function from the name of another arm to its
    trained model with the same seed. If needed, `model_of` trains that arm first.

    Args:
        train: `train(seed, model_of)` returns `(model, record)`, a `keras.Model` and a dict about
            its training that JSON can hold (may be `{}`). It must set the random seed. `None` is
            for an arm that only measures models of other arms.
        measure: `measure(seed, model, model_of)` returns `{column: number}`. Without `train`,
            `model` is `None`. Defaults to `None`, if only other arms use the model.
        once: whether one model serves all seeds, as a teacher does. It is trained and measured
            under the first seed. Defaults to `False`.

    Example:

    ```python
    arm = experiments.Arm(
        train=lambda seed, model_of: (student, {}),
        measure=lambda seed, model, model_of: {"parameters": model.count_params()},
        once=True,
    )
    ```
    """

    train: typing.Callable | None
    measure: typing.Callable | None = None
    once: bool = False


class Runner:
    """Trains and measures arms over seeds.

    Every trained model is written at once, so an interrupted run can be resumed. Only the model
    whose training was interrupted is trained again. A run can be resumed only with the same
    settings. You may add seeds after the others. A model is always read from its file before it is
    used or measured, so a resumed run gives the numbers of an uninterrupted one. Each run measures
    all models again.

    Args:
        arms: `{name: Arm}`, trained and measured in this order.
        seeds: the number of seeds, or a list of different integers.
        folder: the folder of the run. `run.json` holds the settings, `arms/` the models.
        settings: a dict of everything that changes the training. Resuming with other settings is
            refused. Leave out what changes only the measures. Defaults to none.
        load: a function from the path of a `.keras` file to the model. Defaults to
            `keras.saving.load_model` without compiling.
        given: the paths of the run's inputs, which `overwrite` never deletes. Defaults to none.
        devices: the `Devices` that train. On several workers the first one writes. Defaults to
            one device.

    Raises:
        ValueError: if `seeds` is wrong, or the files of two arms would have the same name.

    Example:

    ```python
    def train(seed, model_of):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(10)])
        model.compile("adam", loss)
        return model, model.fit(x, y, verbose=0).history

    def measure(seed, model, model_of):
        return {"accuracy": float(np.mean(model.predict(x, verbose=0).argmax(-1) == y))}

    arms = {"linear": experiments.Arm(train, measure)}
    results = experiments.Runner(arms, seeds=2, folder="runs/linear").run(resume=True)
    ```
    """

    def __init__(
        self,
        arms: dict,
        *,
        seeds: int | Sequence[int],
        folder: str | PathLike[str],
        settings: dict | None = None,
        load: Callable[[str], keras.Model] | None = None,
        given: Sequence[str] = (),
        devices: typing.Any = None,
    ):
        self.arms, self.seeds = dict(arms), checked_seeds(seeds)
        self.folder, self.devices = RunFolder(folder, given), devices or Devices()
        self.settings = described({**(settings or {}), "seeds": self.seeds})
        self._load = load or loaded
        files = {self.folder.file(name).name: name for name in self.arms}
        if len(files) < len(self.arms):
            raise ValueError(
                "The names of arms also name files, so they must differ in letters or digits. "
                f"Received: {', '.join(self.arms)}"
            )

    @property
    def path(self):
        """The run's folder, a `pathlib.Path`."""
        return self.folder.path

    def run(self, *, overwrite=False, resume=False, title="", digits=2):
        """Trains and measures all arms, one seed after the other, and prints a table after each.

        Args:
            overwrite: whether to delete the run in the folder first.
            resume: whether to continue the run in the folder, if there is one.
            title: the title of the table, before the number of finished seeds.
            digits: the number of decimals in the table, at least 0. Defaults to `2`.

        Returns:
            `{arm: [{column: number} of each seed]}`, which `results.json` holds too.

        Raises:
            FileExistsError: if the folder holds a run, and neither argument is true.
            ValueError: if the run in the folder has other settings.
            RuntimeError: if another process is running in the folder.
        """
        with self.folder.alone():
            self.open(overwrite=overwrite, resume=resume)
            results = {}
            for seed in self.seeds:
                self._measure(results, seed)
                found = {"seeds": self.seeds, "arms": results}
                write_json(self.path / "results.json", _files.jsonable(found))
                done = f"{self.seeds.index(seed) + 1} of {len(self.seeds)} seeds"
                heading = ", ".join([done, title] if title else [done])
                say(f"\n{heading}\n\n{markdown(over_seeds(results), digits)}\n")
            return results

    def check(self, *, overwrite=False, resume=False):
        """Raises the errors of `run`, and changes nothing."""
        self.folder.check(self.settings, overwrite=overwrite, resume=resume)

    def open(self, *, overwrite=False, resume=False):
        """Makes the folder, or opens the run in it; `run` calls it first."""
        self.folder.open(self.settings, overwrite=overwrite, resume=resume)

    def train(self):
        """Trains every arm under every seed that is not trained yet."""
        for seed in self.seeds:
            for name, arm in self.arms.items():
                if arm.train is not None:
                    self._ensure(name, seed)

    def measure(self):
        """Measures every arm under every seed; returns the results as `run` does."""
        results = {}
        for seed in self.seeds:
            self._measure(results, seed)
        return results

    def is_trained(self, name, seed=None):
        """Returns whether the model of an arm is on disk; an arm trained `once` needs no seed."""
        return self.folder.is_trained(self.key(name, seed))

    def model(self, name, seed=None):
        """Returns the trained model of an arm, read from its file; trains it first if needed."""
        self._ensure(name, seed)
        return self._load(self.folder.file(self.key(name, seed)))

    def record(self, name, seed=None):
        """Returns the training record of a model that is on disk."""
        return self.folder.record(self.key(name, seed))

    def file(self, name, seed=None):
        """Returns the path of an arm's `.keras` file."""
        return self.folder.file(self.key(name, seed))

    def key(self, name, seed=None):
        """Returns the name of an arm's files: its name, and the seed unless it is trained once."""
        if name not in self.arms or self.arms[name].train is None:
            trained = [each for each, arm in self.arms.items() if arm.train is not None]
            raise ValueError(
                f"The name must be that of a trained arm ({', '.join(trained)}). Received: {name!r}"
            )
        return name if self.arms[name].once else f"{name}-{seed}"

    def _ensure(self, name, seed):
        key = self.key(name, seed)
        if not self.folder.is_trained(key):
            seed = self.seeds[0] if self.arms[name].once else seed
            trained = self.arms[name].train(seed, self._model_of(seed))
            if self.devices.write:
                self.folder.keep(key, *trained)
            self.devices.wait()  # the others continue when the file exists

    def _model_of(self, seed):
        return lambda name: self.model(name, seed)

    def _measure(self, results, seed):
        for name, arm in self.arms.items():
            if arm.measure is None or (arm.once and seed != self.seeds[0]):
                continue
            model = None if arm.train is None else self.model(name, seed)
            found = arm.measure(seed, model, self._model_of(seed))
            results.setdefault(name, []).append(found)


def checked_seeds(seeds):
    """Returns a list of different integers: the given ones, or the first so many.

    Raises:
        ValueError: if there is no seed, or one is no integer or appears twice.
    """
    many = range(seeds) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds
    found = list(many) if isinstance(many, Iterable) else []
    if not found or len(set(found)) < len(found) or not all(isinstance(s, int) for s in found):
        raise ValueError(
            "`seeds` must be a positive number of seeds or a list of different integers. "
            f"Received: seeds={seeds!r}"
        )
    return found


