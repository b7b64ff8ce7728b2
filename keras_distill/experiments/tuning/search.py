"""Searches settings by successive halving, then repeats the leaders over fresh seeds."""

import collections
import math
from os import PathLike
from typing import Any

from keras_distill import _files
from keras_distill._messages import say
from keras_distill.experiments import cached
from keras_distill.experiments.devices import of_one_machine
from keras_distill.experiments.file import PATHS
from keras_distill.experiments.run_folder import RunFolder, loaded
from keras_distill.experiments.tuning import ranking
from keras_distill.experiments.tuning.live import Live
from keras_distill.experiments.tuning.settings import SWEEP, alone, chosen, combinations, shown
from keras_distill.experiments.tuning.trial import Trial
from keras_distill.report import page as report_page

Candidate = collections.namedtuple("Candidate", "number setting taught epochs")


def tune(
    file: str | PathLike[str],
    folder: str | PathLike[str],
    sweep: dict[str, list] | None = None,
    *,
    options: dict | None = None,
    trials: int | None = None,
    halvings: int = 2,
    leaders: int = 3,
    repeats: int = 3,
    seed: int = 0,
    teacher: str | PathLike[str] | None = None,
    cache: str | PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    command: str = "",
    strategy: Any = None,
) -> list[dict]:
    """Finds the best setting of an experiment on its validation split.

    The teacher's targets are written once, and every student trains from them. For each choice of
    epochs and options of the experiment, the student alone is also trained and never stopped. Of
    the other settings the half with the better validation accuracy continues after 1/4 and 1/2 of
    the epochs. The best settings are trained again with new seeds, beside the student alone, and
    ranked by their means. The test split is not read.

    Args:
        file: the experiment's Python file.
        folder: the folder to write `ranking.json`, `ranking.png` and `winner.py` into.
        sweep: `{name: [values]}` with names out of `recipe`, `temperature`, `weight`, `alpha`,
            `epochs` and the options of the file's `experiment`. Defaults to three recipes,
            temperatures and alphas.
        options: options of the experiment that all trials share.
        trials: how many random combinations to try. By default all combinations.
        halvings: how often to stop half of the settings.
        leaders: how many settings to repeat.
        repeats: the number of seeds of a repeated setting.
        seed: the seed of the combinations and of the students in the search. The repeats have the
            seeds after it.
        teacher: a saved teacher, a `.keras` file. By default the experiment trains one.
        cache: a folder of this teacher's targets. By default in `folder`.
        overwrite: whether to delete the run in `folder` first.
        resume: whether to continue it.
        command: the command line, for the winner's file.
        strategy: a `tf.distribute.Strategy` of one machine to train with. Defaults to `None`, which
            is one device.

    Returns:
        The ranking, a list of dicts, best first, as `ranking.json` holds it.

    Raises:
        FileExistsError: if `folder` holds a run, and neither `overwrite` nor `resume` is true.
        ValueError: if a setting is wrong, a number is out of its range, or the run has other
            settings.
        ImportError: if matplotlib is not installed.
        RuntimeError: if another process is running in the folder.

    Example:

    ```python
    sweep = {"recipe": ["hinton", "dist"], "alpha": [0.5, 0.9]}
    ranking = experiments.tuning.tune("examples/quickstart.py", "runs/tune", sweep)
    ranking[0]["setting"]
    ```
    """
    report_page.check_plots()
    _check(halvings=halvings, leaders=leaders, repeats=repeats)
    devices = of_one_machine("tune", strategy)
    options, sweep = dict(options or {}), sweep or SWEEP
    if both := [name for name in sweep if name in options]:
        raise ValueError(
            f"`{both[0]}` is in `sweep` (--sweep) and in `options` (--set), which would decide. "
            "Leave it out of one of them."
        )

    def make(setting):
        experiment = chosen(file, setting, **options)
        experiment.devices = devices
        return experiment

    arms, origin = _arms(file, combinations(sweep, trials=trials, seed=seed), options)
    given = [file, teacher, cache, *(options[name] for name in PATHS if name in options)]
    run = RunFolder(folder, [str(each) for each in given if each is not None])
    seeds = [seed + 1 + index for index in range(repeats)]
    settings = {"settings": [arm.setting for arm in arms], **origin, "halvings": halvings,
                "leaders": leaders, "seed": seed, "seeds": seeds, "teacher": teacher,
                "cache": cache}  # fmt: skip
    run.check(settings, overwrite=overwrite, resume=resume)
    model = None
    if not (resume and run.is_trained("teacher")):  # before an existing run is deleted
        if teacher is None:
            make(arms[0].setting).rehearse(["valid"])
        else:
            model = loaded(teacher)
    if cache is not None:
        _files.check_writable(cache)
    with run.alone():
        run.open(settings, overwrite=overwrite, resume=resume)
        search = Search(run, make, arms, seed)
        search.prepare(model, cache)
        rows = search.repeat(search.leaders(halvings, leaders), seeds)
        ranking.write(run.path, rows, search.stages, file=file, options=options, command=command,
                      task=search.task)  # fmt: skip
    return rows


def _check(**numbers):
    for name, value in numbers.items():
        least = 0 if name == "halvings" else 1
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}. Received: {name}={value}")


def _arms(file, settings, options):
    """Returns all arms, each of which makes an experiment, and the first one's origin."""
    students = list({str(alone(setting)): alone(setting) for setting in settings}.values())
    arms, origin = [], None
    for taught, group in ((False, students), (True, settings)):
        for setting in group:
            experiment = chosen(file, setting, **options)
            origin = origin or experiment.origin
            arms.append(Candidate(len(arms), setting, taught, experiment.epochs))
    return arms, origin


class Search:
    """Trains arms on one teacher's targets.

    Args:
        run: the `RunFolder`.
        make: a function from a setting to an `Experiment`.
        arms: the `Candidate`s, students alone among them.
        seed: the seed of the search.
    """

    def __init__(self, run, make, arms, seed):
        self.run, self.make, self.arms, self.seed = run, make, arms, seed
        self.folder = run.path / "trials"
        self.folder.mkdir(exist_ok=True)
        self.stages = []  # the measures of the search, in order
        self.live = Live()

    def prepare(self, teacher, cache):
        """Gets a teacher, and the targets on disk that any of the arms reads."""
        experiment = self.make(self.arms[0].setting)
        self.task = experiment.task
        if not self.run.is_trained("teacher"):
            taken = teacher, {"history": {}, "seconds": 0.0}
            self.run.keep("teacher", *(experiment.trained_teacher() if teacher is None else taken))
        self.teacher = self.run.model("teacher")
        paths = {}
        for arm in self.arms:  # one experiment at a time, since each may hold its data
            if arm.taught:
                asked = self.make(arm.setting).teacher_paths(self.teacher)
                paths |= dict.fromkeys(asked)
        self.cache = str(cache or self.run.path / "targets")
        cached.prepare(self.teacher, experiment.data("train"), self.cache, list(paths))

    def leaders(self, halvings, count):
        """Returns the best of all arms that were not stopped; students alone are never stopped."""
        groups = collections.defaultdict(list)
        for arm in self.arms:
            if arm.taught:
                groups[str(alone(arm.setting))].append(arm)
            else:
                self._halved([arm], halvings)
        last = [scored for group in groups.values() for scored in self._halved(group, halvings)]
        for state in self.folder.glob("*.weights.h5"):  # files of arms that were stopped
            state.unlink()
        return [arm for _, arm in sorted(last, key=_order)][:count]

    def _halved(self, group, halvings):
        """Returns the arms of a group that reach its last epoch, with their scores."""
        begin, epochs = 0, group[0].epochs
        for end in sorted({math.ceil(epochs / 2**left) for left in range(halvings + 1)}):
            scored = [(self.train(arm, self.seed, begin, end), arm) for arm in group]
            self.stages += [{"setting": shown(arm.setting, arm.taught), **r} for r, arm in scored]
            keep = len(group) if end == epochs else math.ceil(len(group) / 2)
            group = [arm for _, arm in sorted(scored, key=_order)[:keep]]
            begin = end
        self.live.clear()
        return scored

    def repeat(self, leaders, seeds):
        """Returns a row for each leader, best first, with its scores and the student alone's."""
        rows = []
        for arm in leaders:
            base = next(a for a in self.arms if not a.taught and a.setting == alone(arm.setting))
            found = {
                each.taught: [self.train(each, s, 0, each.epochs) for s in seeds]
                for each in (base, arm)
            }
            rows.append(ranking.row(arm.setting, found[True], found[False], alone(arm.setting)))
        return sorted(rows, key=lambda row: (row["failed"] > 0, -row["mean"]))

    def train(self, arm, seed, begin, end):
        """Trains an arm to `end` epochs unless it is on disk; returns the record."""
        name = f"{arm.number:03d}"
        kind = "distilled" if arm.taught else "alone"
        trial = Trial(self.folder, name, kind, seed, self.run.owner, self.live)
        new = trial.record(end) is None
        record = trial.train(lambda: self.make(arm.setting), begin, end, self.teacher, self.cache)
        if new:
            reached = record.get("failed") or ranking.said(record["score"], self.task)
            say(f"{shown(arm.setting, arm.taught)}, seed {seed}: {reached} after {end} of "
                f"{arm.epochs} epochs")  # fmt: skip
        return record


def _order(scored):
    record, arm = scored
    failed, score = "failed" in record, record["score"]  # R squared may be below 0
    return failed, -score, record["nll"] is None, record["nll"], arm.number
