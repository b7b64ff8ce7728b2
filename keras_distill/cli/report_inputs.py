"""Reads the inputs of `report` from a run's folder: its models, its data, and their origin."""

import os
import pathlib

import keras
import numpy as np

from keras_distill import _files, report
from keras_distill.cli import export_inputs, program
from keras_distill.experiments.comparison import ARMS
from keras_distill.experiments.run_folder import OWNER, RUN, RunFolder
from keras_distill.report import exports
from keras_distill.report.recorded import recorded
from keras_distill.report.tasks import Numbers

RESULTS = "results.json"  # the results of a run of any task
BATCH = 32


def run_of(path):
    """Returns the folder with the trained models: the run's, or that of `compress`'s comparison.

    Raises:
        FileNotFoundError: if there is no run of `train` or `compress`, or it is not finished.
    """
    for folder in (pathlib.Path(path) / "final", pathlib.Path(path)):
        if (folder / RUN).is_file():
            run = RunFolder(folder)
            missing = [each for each in names_in(run).values() if not run.is_trained(each)]
            if missing:
                raise FileNotFoundError(
                    f"{path} holds no finished run of `train` or `compress`. It has no "
                    f"{', '.join(missing)}."
                )
            return folder
    raise FileNotFoundError(f"{path} holds no run. It has no {RUN}.")


def names_in(run):
    """Returns `{(arm, seed): the name of its files}` of everything that a run trains."""
    seeds = _files.read_json(run.path / RUN, {"seeds": list})["seeds"]
    return {("teacher", None): "teacher"} | {
        (arm, seed): f"{arm}-{seed}" for arm in ARMS for seed in seeds
    }


def measured_itself(path):
    """Returns the `Comparison` of a run with measures of its own, or `None` for other runs."""
    folder = pathlib.Path(path)
    run = RunFolder(folder)
    results = _files.read_json(folder / RESULTS, {"arms": dict, "seeds": list})
    if results is None:
        return None
    sizes, histories = {}, {}
    for arm in results["arms"]:
        for name in (arm, *(f"{arm}-{seed}" for seed in results["seeds"])):
            if run.is_trained(name):
                sizes.setdefault(arm, os.path.getsize(run.file(name)))
                histories.setdefault(arm, []).append(_history(run.record(name)))
    told = provenance(folder, "as the run measured it")
    return report.Comparison(recorded(
        folder.name, results["arms"], sizes, histories, told))  # fmt: skip


def _history(record):
    """Returns the curves in a training record: the record itself, or its history."""
    found = record.get("history", record)
    return {key: values for key, values in found.items() if _is_curve(values)}


def _is_curve(values):
    return isinstance(values, list) and all(
        value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
        for value in values
    )


def name_of(folder):
    """Returns the name of a run."""
    return str(_files.read_json(folder / RUN, {}).get("name", folder.name))


def trained(folder):
    """Returns `(models, histories)` by arm: the teacher, and the students of all seeds as lists.

    The student that the run exported is the first of its list.
    """
    run = RunFolder(folder)
    models, histories = {}, {}
    for (arm, _), name in names_in(run).items():
        models.setdefault(arm, []).append(program.model_of(run.file(name)))
        histories.setdefault(arm, []).append(run.record(name).get("history") or {})
    file = folder / export_inputs.STUDENT
    if file.is_file():
        _first(models, histories, program.model_of(file))
    return {**models, "teacher": models["teacher"][0]}, histories


def _first(models, histories, chosen):
    """Puts the seed of the model with the weights of `chosen` to the front, in every arm.

    Arms are compared by pairs of seeds, so all of them keep one order.
    """
    for i, model in enumerate(models["distilled"]):
        pairs = zip(model.get_weights(), chosen.get_weights())
        if all(np.array_equal(a, b) for a, b in pairs):
            seeds = len(models["distilled"])
            for each in (*models.values(), *histories.values()):
                if len(each) == seeds:
                    each.insert(0, each.pop(i))
            return


def data_of(folder, experiment, split):
    """Returns `(batches, their description)`: a split of the experiment, or the run's examples.

    Raises:
        FileNotFoundError: if there is neither.
    """
    if experiment is not None:
        return experiment.data(split), f"the {split} split of the experiment {experiment.name!r}"
    inputs, targets, weights = export_inputs.of_run(folder)
    if targets is None:
        raise FileNotFoundError(
            f"{folder} saved no examples with labels. Give the run's --experiment."
        )

    def batch(start):
        parts = (inputs, targets) if weights is None else (inputs, targets, weights)
        return keras.tree.map_structure(lambda each: each[start : start + BATCH], parts)

    batches = [batch(start) for start in range(0, len(targets), BATCH)]
    return batches, "the examples of the validation split on which the run chose its export"


def task_of(folder, experiment):
    """Returns `"numbers"` for a regression, which counts as targets do not show, else `None`.

    The experiment tells, or else the measure by which the run judged its models.
    """
    if experiment is not None:
        return Numbers.name if experiment.task is Numbers else None
    arms = (_files.read_json(folder / "report.json", {}) or {}).get("arms", {})
    rows = [row for arm in arms.values() for row in arm["seeds"]]
    return Numbers.name if any(Numbers.metric in row for row in rows) else None


def exported(path):
    """Returns the paths of the exports of the distilled student in a run."""
    root = pathlib.Path(path)
    found = _files.read_json(root / "compress.json", {"answer": dict}) or {"answer": {}}
    alone = found["answer"].get("arm") == "alone"  # `exported` holds another student
    places = [root / "serving", root / "final" / "serving"]
    places += [] if alone else [root / "exported"]
    return [each for place in places for each in exports.found_in(place)]


def provenance(folder, data):
    """Returns the origin of a run's models: its command, settings, seeds and files."""
    settings = _files.read_json(folder / RUN, {})
    fields = {"command": str, "seconds": (int, float)}
    known = _files.read_json(folder / "report.json", fields) or {"command": None, "seconds": 0}
    settings.pop(OWNER, None)
    return {"command": known["command"], "run": str(folder), "data": data, **settings,
            "seconds of training": round(known["seconds"]) or None}  # fmt: skip
