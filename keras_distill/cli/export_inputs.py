"""Reads the inputs of `export` beside the student: examples, class names, and a run's data."""

import hashlib
import os
import zipfile

from keras_distill.cli import program, quiet

STUDENT = "student.keras"
FINAL = "final"  # the folder of the last comparison in a run of `compress`
# The provenance of a run's student, by the file that holds it.
KEPT = {
    "run.json": ("epochs", "teacher_epochs", "alpha", "seeds", "training", "options", "files"),
    "report.json": ("name", "command", "arms"),
}


def model_file(path):
    """Returns the student's file: `path` itself, or the student of the run in the folder `path`."""
    if not os.path.isdir(path):
        return path
    file = os.path.join(path, STUDENT)
    if not os.path.isfile(file):
        raise FileNotFoundError(f"{path} holds no finished run. It has no {STUDENT}.")
    return file


def arrays(flag, path):
    """Returns `(inputs, targets)` of an `.npz` file, or `(None, None)` if no file is given."""
    return _parts(flag, path)[:2]


def _parts(flag, path):
    """Returns `(inputs, targets, weights)` of an `.npz` file; `None` is for what it lacks."""
    if path is None:
        return None, None, None
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{flag} takes a file. No such file: {path}")
    quiet.import_keras(program.verbose())
    import numpy as np

    from keras_distill.experiments.run_folder import INPUT, TARGETS, WEIGHTS

    try:
        with np.load(path, allow_pickle=False) as file:
            found = dict(file)
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"{flag} takes an .npz file of arrays. Received: {path} ({said})"
        ) from error
    others = found.pop(TARGETS, None), found.pop(WEIGHTS, None)
    if list(found) in (["inputs"], ["arr_0"]):
        return next(iter(found.values())), *others
    if found and list(found) == [f"inputs[{index}]" for index in range(len(found))]:
        return tuple(found.values()), *others  # a run's examples of a model with a list of inputs
    return {name.removeprefix(INPUT): each for name, each in found.items()}, *others


def labels(path):
    """Returns the names of the classes, one per line, or `None` if no file is given."""
    return None if path is None else program.lines_of("--labels", path)


def image_range(text):
    """Returns the least and the greatest value of a pixel."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"--image-range takes LOW,HIGH, as in 0,255. Received: {text}") from None
    return low, high


def provenance(path, model):
    """Returns the student's origin: a JSON file's object, or the content of the run's files."""
    quiet.import_keras(program.verbose())
    from keras_distill import _files
    from keras_distill.experiments.run_folder import EXAMPLES

    if path is not None:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"--provenance takes a file. No such file: {path}")
        found = _files.read_json(path)
        if not isinstance(found, dict):
            raise ValueError(f"--provenance takes a JSON file with an object. Received: {path}")
        return found
    found = {}
    for name, keys in KEPT.items():
        file = _in_run(model, name)
        held = _files.read_json(file, {}) if file else None
        found.update({key: held[key] for key in keys if held and key in held})
    if arms := found.pop("arms", {}):
        found["metrics"] = {arm: held.get("seeds") for arm, held in arms.items()}
    examples = _in_run(model, EXAMPLES)
    if found and examples:
        with open(examples, "rb") as file:
            found["validation examples (SHA-256)"] = hashlib.sha256(file.read()).hexdigest()
    return found or None


def of_run(folder):
    """Returns `(inputs, targets, weights)` of the run's validation examples, or `None` for each."""
    from keras_distill.experiments.run_folder import EXAMPLES

    return _parts("--model", _in_run(folder, EXAMPLES))


def _in_run(folder, name):
    """Returns the path of a file of a run, or of the last comparison of `compress`, or `None`."""
    paths = [os.path.join(folder, *each, name) for each in ((), (FINAL,))]
    return next(filter(os.path.isfile, paths), None)


def of_experiment(experiment, count=256):
    """Returns `(inputs, targets, weights)` of an experiment's first validation examples."""
    from keras_distill.experiments.comparison import first_examples

    return first_examples(experiment.data("valid"), count)
