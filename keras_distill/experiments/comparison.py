"""Compares what a run has trained, on the test split, and writes all of it."""

import shutil

import keras
import numpy as np

from keras_distill import export, report

ARMS = ("alone", "distilled")
CHECKED = 16  # test examples that the exported student must answer as the student does


def compare(run, about, seeds, data):
    """Measures every trained model of a run and writes the report and the exported models.

    Args:
        run: The `RunFolder`, with everything trained.
        about: What the report says of the run: `name`, `settings` and `command`.
        seeds: The seeds of the students.
        data: A function from "valid" or "test" to a batched dataset. The validation split chooses
            the student that is exported.

    Returns:
        The results, as `report.json` holds them.
    """
    test = data("test")
    best = _best(run, seeds, data("valid"))
    models = {"teacher": run.model("teacher")}
    models.update({arm: run.model(f"{arm}-{best}") for arm in ARMS})
    held = [keras.utils.unpack_x_y_sample_weight(batch)[:2] for batch in test]  # in one order
    inputs = _together([x for x, _ in held])
    results = {**about, **_measured(run, seeds, held), **_pictures(models, held, inputs)}
    results["latency"] = report.latency(models, _first(inputs, 1))
    report.write(run.path, results)
    print(report.table(report.summaries(results)))
    print(f"\nThe report: {run.path / 'report.html'}")
    _export(run, about["name"], models, _first(inputs, CHECKED))
    return results


def _measured(run, seeds, test):
    """Every trained model on the test split, beside its learning curves."""
    keys = {"teacher": ["teacher"], **{arm: [f"{arm}-{seed}" for seed in seeds] for arm in ARMS}}
    teacher = run.model("teacher")
    arms = {}
    for arm, names in keys.items():
        judge = None if arm == "teacher" else teacher
        measured = [_measure(run.model(key), test, judge) for key in names]
        arms[arm] = {"seeds": measured, "history": [run.record(key)["history"] for key in names]}
    seconds = sum(run.record(key)["seconds"] for names in keys.values() for key in names)
    return {"arms": arms, "seconds": seconds}


def _measure(model, data, teacher):
    size = report.size_on_disk(model)
    return {**report.measure(model, data, teacher), "size_bytes": size}


def _best(run, seeds, valid):
    """The seed whose distilled student is the best on the validation split."""

    def accuracy(seed):
        return report.measure(run.model(f"distilled-{seed}"), valid)["accuracy"]

    return max(seeds, key=accuracy)


def _pictures(models, test, inputs):
    _, labels = report.predictions(models["teacher"], test)
    log_probs = {arm: report.predictions(model, test)[0] for arm, model in models.items()}
    reliability = {arm: report.reliability(found, labels) for arm, found in log_probs.items()}
    return {"reliability": reliability, "doubts": report.doubts(inputs, labels, log_probs)}


def _export(run, name, models, examples):
    export.write_student(models["distilled"], run.path / "student.keras")
    export.write_student(models["teacher"], run.path / "teacher.keras")
    shutil.rmtree(run.path / "serving", ignore_errors=True)
    path = export.write_saved_model(models["distilled"], run.path / "serving", name=name)
    expected = export.answers(models["distilled"], examples)
    difference = export.check_saved_model(path, examples, expected)
    count = len(keras.tree.flatten(examples)[0])
    print(f"{path}: reloaded, differs by at most {difference:.1e} over {count} test examples.")


def _together(batches):
    """All inputs of some batches, as arrays."""
    return keras.tree.map_structure(
        lambda *parts: np.concatenate([np.asarray(part) for part in parts]), *batches
    )


def _first(inputs, count):
    return keras.tree.map_structure(lambda value: value[:count], inputs)
