"""Compresses a teacher: proposes, measures, searches, trains, chooses and exports."""

import copy
import math
from collections.abc import Sequence
from os import PathLike
from typing import Any

from keras_distill import recipes
from keras_distill._files import check_fields, plain, read_json, write_json
from keras_distill._messages import say
from keras_distill.experiments.comparison import first_examples
from keras_distill.experiments.compressing import answer
from keras_distill.experiments.compressing.students import (
    SIZES,
    Proposal,
    measured,
    proposals,
    rehearse_sizes,
    within,
)
from keras_distill.experiments.devices import of_one_machine
from keras_distill.experiments.file import load_experiment
from keras_distill.experiments.run_folder import RunFolder, described, loaded
from keras_distill.experiments.tuning.ranking import name_of, said
from keras_distill.experiments.tuning.search import Candidate, Search
from keras_distill.experiments.tuning.settings import under
from keras_distill.export.formats import checked_formats
from keras_distill.recipes.defaults import terms_of
from keras_distill.report import page as report_page

BUDGET = ("ms", "mb", "flops")
COST = {**dict.fromkeys((*BUDGET, "parameters"), (int, float)), "flops": (int, float, type(None))}


def compress(
    file: str | PathLike[str],
    folder: str | PathLike[str],
    *,
    teacher: str | PathLike[str] | None = None,
    max_ms: float | None = None,
    max_mb: float | None = None,
    max_flops: float | None = None,
    keep: float | None = None,
    options: dict | None = None,
    repeats: int = 3,
    seed: int = 0,
    sizes: Sequence[Any] | None = None,
    formats: str | Sequence[str] = (),
    quantize: str = "none",
    overwrite: bool = False,
    resume: bool = False,
    command: str = "",
    strategy: Any = None,
) -> dict:
    """Finds a small student of a teacher, distills it, and exports the best one.

    1. It proposes students. It cuts them from the teacher in depth, width and vocabulary, as far as
       `models.shrink` can, and takes the sizes of the experiment's `student(size=...)`. It measures
       what each costs, and drops those over the budget before any training.
    2. It writes the teacher's targets once. `recipes.default` chooses how to distill.
    3. Without `keep` it stops the worse half of the students, by validation accuracy, or R squared
       of a regression, after 1/4 and 1/2 of the epochs. With `keep` it finds the smallest student
       that keeps this share of the teacher's accuracy or R squared, by bisection over their
       operations, and trains each to its end.
    4. For the chosen student it trains the student alone, and settings around the default. It
       stops the worse half of the settings after a quarter.
    5. It trains the best setting and the student alone again over `repeats` seeds. It exports the
       better of the two on the validation split, and says which it is and how sure that is.

    Args:
        file: the experiment's Python file.
        folder: the folder to write `compress.json`, `pareto.png`, `summary.md` and
            `student.keras` into. `final/` has the report of the comparison and the exported models.
        teacher: a saved teacher, a `.keras` file. Defaults to `None`, so that the experiment
            trains one.
        max_ms: the maximum latency at batch size 1 on this machine, in milliseconds. Defaults to
            `None`, which is no limit.
        max_mb: the maximum size of the `.keras` file, in megabytes. Defaults to `None`, which is
            no limit.
        max_flops: the maximum number of operations of a prediction. Defaults to `None`, which is
            no limit.
        keep: the share of the teacher's validation accuracy, or R squared, to keep, in (0, 1].
            Defaults to `None`, which finds the best student within the budget.
        options: options of the experiment.
        repeats: the number of seeds of the last comparison, at least 1. Defaults to `3`.
        seed: the seed of the search. The last comparison has the seeds after it.
        sizes: the sizes for `student(size=...)`. Defaults to `1, 0.7, 0.5, 0.35, 0.25`.
        formats: more formats to export to, out of `"serving"`, `"litert"`, `"onnx"` and
            `"openvino"`, into `exported/`. Defaults to none.
        quantize: how to quantize these exports, as in `export.write`. Defaults to `"none"`.
        overwrite: whether to delete the run in `folder` first.
        resume: whether to continue it.
        command: the command line, for the report.
        strategy: a `tf.distribute.Strategy` of one machine to train with. Defaults to `None`, which
            is one device.

    Returns:
        The content of `compress.json`: the `students` and their costs, the `search`, the `answer`.

    Raises:
        FileExistsError: if `folder` holds a run, and neither `overwrite` nor `resume` is true.
        ValueError: if a number is out of its range, no student is within the budget, or the run has
            other settings.
        ImportError: if matplotlib is not installed.

    Example:

    ```python
    compress("examples/quickstart.py", "runs/small", keep=0.99)
    ```
    """
    report_page.check_plots()
    budget = _checked(dict(zip(BUDGET, (max_ms, max_mb, max_flops))), keep, repeats)
    formats = checked_formats(formats, quantize) if formats else ()
    options = dict(options or {})
    experiment = load_experiment(file, options)
    experiment.devices = of_one_machine("compress", strategy)
    read = [*experiment.given, *([] if teacher is None else [teacher])]
    run, seeds = RunFolder(folder, read), [seed + 1 + index for index in range(repeats)]
    settings = described({
        **experiment.origin, "budget": budget, "keep": keep, "seed": seed, "seeds": seeds,
        "teacher": teacher, "sizes": sizes, "kind": "compress",
    })  # fmt: skip
    run.check(settings, overwrite=overwrite, resume=resume)
    given = None
    if not (resume and run.is_trained("teacher")):  # before an existing run is deleted
        experiment.rehearse(["valid"])
        rehearse_sizes(experiment, SIZES if sizes is None else sizes)
        given = teacher and loaded(teacher)
    with run.alone():
        run.open(settings, overwrite=overwrite, resume=resume)
        work = Compressing(run, experiment, seed)
        work.prepare(given, keep)
        names = work.propose(budget, sizes)
        name = work.smallest(names, keep) if keep else work.best(names)
        setting = work.settle(name)
        found = work.finish(name, setting, seeds, keep, command)
        if formats:
            answer.export(run.path, found, experiment, formats, quantize)
        return found


def _checked(budget, keep, repeats):
    for name, most in budget.items():
        if most is not None and not most > 0:
            raise ValueError(f"`max_{name}` must be positive. Received: max_{name}={most}")
    if keep is not None and not 0 < keep <= 1:
        raise ValueError(f"`keep` must be a share in (0, 1]. Received: keep={keep}")
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"`repeats` must be at least 1. Received: repeats={repeats}")
    return budget


class Compressing:
    """The work of one `compress`; every finished piece is on disk.

    Args:
        run: the `RunFolder`.
        experiment: the `Experiment`, which is not changed.
        seed: the seed of the search.
    """

    def __init__(self, run, experiment, seed):
        self.run, self.experiment, self.seed = run, experiment, seed
        self.students, self.costs, self.numbers = {}, {}, {}
        self.pieces = {}  # `{(arm, last epoch): (share of a training, seconds)}`

    def prepare(self, given, keep):
        """Gets a teacher, its targets on disk, and the first setting."""
        default = [Candidate(0, {}, True, self.experiment.epochs)]
        self.search = Search(self.run, self.make, default, self.seed)
        self.search.prepare(given, None)
        self.teacher = self.search.teacher
        path = self.run.path / "default.json"
        if read_json(path) is None:
            experiment = self.experiment
            chosen = recipes.default(self.teacher, experiment.data("train"),
                                     experiment.data("valid"))  # fmt: skip
            found = {"setting": chosen.setting, "reasons": chosen.reasons,
                     "signs": chosen.signs._asdict()}  # fmt: skip
            write_json(path, plain(found))
        self.default = read_json(path, {"setting": dict, "reasons": list, "signs": dict})
        for reason in self.default["reasons"]:
            say(reason)
        task = self.experiment.task
        measured = self.experiment.measure(self.teacher, "valid")
        if "failed" in measured:
            raise ValueError(f"The teacher cannot teach. {measured['failed']}")
        self.goal = measured[task.metric]
        if keep and self.goal <= 0:
            raise ValueError(
                "`keep` needs a teacher that is better than always saying the mean. Train a better "
                f"teacher, or leave `keep` out. Received: a teacher with {said(self.goal, task)}"
            )
        say(f"The teacher has {said(self.goal, task)} on the validation split.")

    def propose(self, budget, sizes):
        """Returns the names of students within the budget, by falling number of operations."""
        experiment = self.experiment
        found = proposals(experiment, self.teacher, SIZES if sizes is None else sizes)
        self.students = {each.name: each for each in found}
        path = self.run.path / "costs.json"
        if read_json(path) is None:
            example = first_examples(experiment.data("valid"), 1)[0]
            teacher = Proposal("teacher", lambda: self.teacher)
            write_json(path, measured([teacher, *found], example))  # in turns: all drift alike
        self.costs = read_json(path, dict.fromkeys(["teacher", *self.students], dict))
        for each in self.costs.values():
            check_fields(path, each, COST)
        self.theirs = self.costs.pop("teacher")
        kept = within(self.costs, budget)
        say(f"{len(kept)} of {len(found)} students are within the budget: {', '.join(kept)}.")
        return sorted(kept, key=self._size, reverse=True)

    def _size(self, name):
        """Returns the size by which students are ordered, which is the same in every run."""
        return self.costs[name]["flops"] or 0, self.costs[name]["parameters"], name

    def best(self, names):
        """Returns the best student, by halving."""
        begin, epochs = 0, self.experiment.epochs
        for end in sorted({math.ceil(epochs / 4), math.ceil(epochs / 2), epochs}):
            scored = [(-self.train(name, self.default["setting"], begin, end), name)
                      for name in names]  # fmt: skip
            kept = len(names) if end == epochs else math.ceil(len(names) / 2)
            names = [name for _, name in sorted(scored)[:kept]]
            begin = end
        self.search.live.clear()
        return names[0]

    def smallest(self, names, keep):
        """Finds the smallest student that keeps the share by bisection, or else the best."""
        epochs, low, high, found = self.experiment.epochs, 0, len(names), {}
        while low < high:
            middle = (low + high) // 2
            found[names[middle]] = self.train(names[middle], self.default["setting"], 0, epochs)
            enough = found[names[middle]] >= keep * self.goal
            low, high = (middle + 1, high) if enough else (low, middle)
        fine = [name for name, score in found.items() if score >= keep * self.goal]
        if fine:
            return min(fine, key=self._size)
        say(f"No student that was tried keeps {keep:.1%} of the teacher's "
            f"{name_of(self.experiment.task)}. The search continues with the best one.")
        return max(found, key=found.get)

    def settle(self, name):
        """Returns the best setting for a student, beside the student alone."""
        epochs, settings = self.experiment.epochs, around(self.default["setting"])
        self.train(name, None, 0, epochs)
        quarter = math.ceil(epochs / 4)
        scored = [(-self.train(name, each, 0, quarter), place)
                  for place, each in enumerate(settings)]  # fmt: skip
        kept = [settings[place] for _, place in sorted(scored)[: math.ceil(len(settings) / 2)]]
        if epochs > quarter:
            ends = [(-self.train(name, each, quarter, epochs), place)
                    for place, each in enumerate(kept)]  # fmt: skip
            kept = [kept[place] for _, place in sorted(ends)]
        self.search.live.clear()
        return kept[0]

    def train(self, name, setting, begin, end):
        """Returns a student's validation score after `end` epochs, the least if it diverged."""
        made = {"student": name, **({} if setting is None else setting)}
        number = self.numbers.setdefault(str(made), len(self.numbers) + 1)
        epochs = self.experiment.epochs
        arm = Candidate(number, made, setting is not None, epochs)
        record = self.search.train(arm, self.seed, begin, end)
        self.pieces.setdefault((number, end), ((end - begin) / epochs, record["seconds"]))
        self.search.stages.append({"student": name, "setting": setting, **record})
        return -math.inf if "failed" in record else record["score"]

    def _alone(self, name):
        """Returns the time of the search, without the teacher, in trainings of the student alone.

        It includes the time to make, compile and validate the models.
        """
        taken = {key: seconds for key, (_, seconds) in self.pieces.items()}
        alone = self.numbers[str({"student": name})], self.experiment.epochs
        return sum(taken.values()) / taken[alone]

    def make(self, setting):
        """Returns the experiment with a setting, with its student and the trained teacher."""
        given, setting = setting, dict(setting)
        name = setting.pop("student", None)
        experiment = copy.copy(self.experiment)
        if name is not None:
            experiment.student = self.students[name].make
        if setting.pop("loss", None):  # one unit or a regression: no recipe
            experiment.terms = terms_of(given)
        return under(experiment, setting)

    def finish(self, name, setting, seeds, keep, command):
        """Runs the last comparison over seeds, and writes the answer."""
        experiment = self.make({"student": name, **setting})
        experiment.seeds, experiment.teacher_epochs = seeds, 0
        experiment.teacher = lambda: self.run.model("teacher")
        results = experiment.run(self.run.path / "final", resume=True, command=command,
                                 cache=self.search.cache,
                                 strategy=self.experiment.devices.strategy)  # fmt: skip
        found = {
            "task": self.experiment.task.name,
            "teacher": {"score": self.goal, **self.theirs}, "default": self.default,
            "students": self.costs, "search": self.search.stages,
            "trainings": sum(share for share, _ in self.pieces.values()),
            "trainings_alone": self._alone(name), "student": name, "setting": setting,
            "keep": keep, "cut": self.students[name].cut,
        }  # fmt: skip
        return answer.write(self.run.path, found, results, experiment, seeds)


def around(setting):
    """Returns the default and its neighbors: another alpha, temperature and recipe."""
    other = {"alpha": 0.9 if setting["alpha"] < 0.7 else 0.5}
    beside = [setting, {**setting, **other}]
    if "temperature" in setting:
        recipe = "hinton" if setting["recipe"] == "dist" else "dist"
        hotter = {"temperature": 2 * setting["temperature"]}
        beside += [{**setting, **hotter}, {**setting, "recipe": recipe}]
    return beside
