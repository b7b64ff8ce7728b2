"""Compares the models of a run on the test split, and writes the results."""

import math
import shutil

import keras
import numpy as np

from keras_distill import _backend, _files, export, report
from keras_distill._messages import say
from keras_distill.experiments.run_folder import EXAMPLES, INPUT, TARGETS, WEIGHTS
from keras_distill.export.given import plain
from keras_distill.export.reload import write_arrays
from keras_distill.report.measures import reliability_of
from keras_distill.report.tasks import Classes, Numbers

ARMS = ("alone", "distilled")
CHECKED = 16  # test examples on which the exported student must agree with the student


def compare(runner, about, valid, test, task=Classes):
    """Measures every trained model of a run and writes the report and the exported models.

    Args:
        runner: the `Runner` of the arms "teacher", "alone" and "distilled", all of them trained.
        about: the report's data on the run: `name`, `settings` and `command`.
        valid: the batches of the validation split, which chooses the student to export.
        test: the batches of the test split, as `held` keeps them.
        task: `Classes` or `Numbers`, by which models are judged. Defaults to `Classes`.

    Returns:
        The results, as in `report.json`.
    """
    keras.utils.set_random_seed(runner.seeds[0])  # of dropout, which no file holds
    best = _best(runner, valid, task)
    failed = "failed" in runner.record("distilled", best)
    models = {"teacher": runner.model("teacher")}
    models.update({arm: runner.model(arm, best) for arm in ARMS})
    inputs = _together([batch[0] for batch in test])
    pictures = {} if task is Numbers else _pictures(models, test, inputs)  # they show probabilities
    results = {**about, **_measured(runner), **pictures}
    results["latency"] = report.latency(models, _first(inputs, 1))
    say(report.table(report.summaries(results)))
    keep_examples(runner.path / EXAMPLES, valid)
    try:
        report.write(runner.path, results)
        say(f"\nThe report: {runner.path / 'report.html'}")
    finally:  # a page that cannot be written costs no model
        if not failed:
            _export(runner.path, about["name"], models, inputs)
        else:
            say("The distilled student failed, so nothing is exported.")
    return results


def held(dataset):
    """Returns all batches of a dataset, `(x, y)` or `(x, y, weights)` each, in one order."""
    found = map(keras.utils.unpack_x_y_sample_weight, dataset)
    return [batch[:2] if batch[2] is None else batch for batch in found]


def measured(model, data, teacher, task=Classes):
    """Returns the measures of a trained model, compared with its teacher if there is one."""
    size = report.size_on_disk(model)
    return {**report.measure(model, data, teacher, task.name), "size_bytes": size}


def _measured(runner):
    """Returns the measures of every trained model on the test split, and its learning curves."""
    rows = runner.measure()
    records = {"teacher": [runner.record("teacher")]}
    records |= {arm: [runner.record(arm, seed) for seed in runner.seeds] for arm in ARMS}
    arms = {
        arm: {"seeds": [_judged(*pair) for pair in zip(rows[arm], found)],
              "history": [record["history"] for record in found]}
        for arm, found in records.items()
    }  # fmt: skip
    seconds = sum(record["seconds"] for found in records.values() for record in found)
    return {"arms": arms, "seconds": seconds}


def _judged(row, record):
    """Returns a row of measures; for a failed training only that it failed."""
    if "failed" in record:
        return {**dict.fromkeys(row), "failed": record["failed"]}
    return row


def _best(runner, valid, task):
    """Returns the seed whose distilled student is the best on the validation split."""

    def score(seed):
        if "failed" in runner.record("distilled", seed):
            return -math.inf
        found = report.measure(runner.model("distilled", seed), valid, task=task.name)
        return -math.inf if "failed" in found else found[task.metric]

    return max(runner.seeds, key=score)


def _pictures(models, test, inputs):
    """Returns the models' confidence and, for images, those of which the teacher is unsure."""
    count = sum(len(batch[1]) for batch in test)
    images = getattr(inputs, "ndim", 0) in (3, 4) and len(inputs) == count
    if not images or np.ndim(test[0][1]) > 2:  # an answer for each pixel
        return {"reliability": {arm: reliability_of(model, test) for arm, model in models.items()}}
    found = {arm: report.predictions(model, test) for arm, model in models.items()}
    log_probs, labels = {arm: each for arm, (each, _) in found.items()}, found["teacher"][1]
    reliability = {arm: report.reliability(each, labels) for arm, each in log_probs.items()}
    return {"reliability": reliability, "doubts": report.doubts(inputs, labels, log_probs)}


def _export(folder, name, models, inputs):
    export.write_student(models["distilled"], folder / "student.keras")
    export.write_student(models["teacher"], folder / "teacher.keras")
    shutil.rmtree(folder / "serving" / name / "1", ignore_errors=True)  # of the run, if resumed
    if _backend.NAME != "tensorflow":
        say(f"A SavedModel cannot be written on {_backend.NAME}. To write one, run "
            f"KERAS_BACKEND=tensorflow python -m keras_distill export --model={folder} "
            f"--out={folder / 'serving'}")
        return
    examples = _answerable(models["distilled"], inputs)
    exported, = export.write(models["distilled"], folder / "serving", name=name, inputs=examples)
    said = f"differs by at most {exported.parity.difference:.1e} over {exported.examples}"
    say(f"The exported model: {exported.path}. Reloaded, it {said} test examples.")


def keep_examples(path, valid):
    """Writes the first examples of the validation split if they are numbers or strings."""
    inputs, targets, weights = first_examples(valid)
    arrays = _named(inputs)
    arrays.update({} if targets is None else {TARGETS: targets})
    arrays.update({} if weights is None else {WEIGHTS: weights})
    if all(getattr(each, "dtype", None) is not None and each.dtype.kind in "fiubS"
           for each in arrays.values()):  # fmt: skip
        with _files.whole(path) as part:
            write_arrays(part, arrays)


def _named(inputs):
    """Returns inputs as a dict, as `cli.export_inputs.arrays` reads them back."""
    if isinstance(inputs, dict):
        taken = (TARGETS, WEIGHTS)
        return {f"{INPUT}{name}" if name in taken or name.startswith("inputs") else name: each
                for name, each in inputs.items()}  # fmt: skip
    if isinstance(inputs, (list, tuple)):
        return {f"inputs[{index}]": each for index, each in enumerate(inputs)}
    return {"inputs": inputs}


def first_examples(dataset, count=256):
    """Returns `(inputs, targets, weights)` of the first examples as arrays; two may be `None`."""
    found, seen = [], 0
    for batch in dataset:
        parts = keras.utils.unpack_x_y_sample_weight(batch)
        found.append(tuple(part for part in parts if part is not None))
        seen += len(keras.tree.flatten(parts[0])[0])
        if seen >= count:
            break
    inputs, *others = keras.tree.map_structure(plain, _first(_together(found), count))
    targets, weights = (*others, None, None)[:2]
    return (inputs, None, None) if isinstance(targets, dict) else (inputs, targets, weights)


def for_export(inputs, targets, weights):
    """Returns `(inputs, targets)` for the check of an export, which takes no weights.

    Without them it would judge answers that do not count, so it gets no targets.
    """
    return inputs, None if np.ndim(weights) > 1 else targets


def _answerable(model, inputs):
    """Returns the first inputs with finite answers of a model; others prove nothing."""
    count, places = len(keras.tree.flatten(inputs)[0]), []
    for start in range(0, count, CHECKED):
        answers = export.answers(model, _at(slice(start, start + CHECKED), inputs))
        known = np.isfinite(answers).all(axis=tuple(range(1, answers.ndim)))
        places = [*places, *(start + np.flatnonzero(known))][:CHECKED]
        if len(places) == CHECKED:
            break
    return _at(places, inputs)


def _at(places, inputs):
    return keras.tree.map_structure(lambda value: plain(value[places]), inputs)


def _together(batches):
    """Returns all inputs of some batches, as arrays.

    Texts may be padded to the longest of their batch. Batches of another length than the first are
    then left out.
    """
    batches = [keras.tree.map_structure(np.asarray, batch) for batch in batches]
    shapes = [[each.shape[1:] for each in keras.tree.flatten(batch)] for batch in batches]
    alike = [batch for batch, shape in zip(batches, shapes) if shape == shapes[0]]
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *alike)


def _first(inputs, count):
    return keras.tree.map_structure(lambda value: value[:count], inputs)
