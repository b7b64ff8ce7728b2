"""Reads an experiment from a Python file."""

import hashlib
import inspect
import os
import pathlib
import sys

from keras_distill.experiments.experiment import Experiment
from keras_distill.experiments.run_folder import described

PATHS = ("data", "tsv")  # options that name a file or folder


def load_experiment(path, options):
    """Returns the `Experiment` that `experiment(**options)` in the Python file at `path` returns.

    The experiment remembers its options and the content of the file and of imported modules beside
    it. A run can be resumed only with the same ones.

    Args:
        path: the file. It can import modules beside it, as a script can.
        options: arguments by name. The function must take all of them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file has no function `experiment`, or the function lacks an option.
        TypeError: if the function returns no `Experiment`.
    """
    path = pathlib.Path(path)
    make = _maker(path)
    given = _bound(path, make, options)
    experiment = make(**options)
    if not isinstance(experiment, Experiment):
        raise TypeError(f"`experiment` of {path} must return an `Experiment`. "
                        f"Received: {experiment!r}")  # fmt: skip
    inner = {f"{name} (inside)": v for name, v in experiment.origin.get("files", {}).items()}
    experiment.origin = {"options": given, "files": {**inner, **_fingerprints(path)}}
    named = [given[name] for name in PATHS if isinstance(given.get(name), str)]
    experiment.given = [*experiment.given, str(path), *named]
    return experiment


def options_of(path):
    """Returns the names of the options of an experiment's file; raises as `load_experiment`."""
    parameters = inspect.signature(_maker(pathlib.Path(path))).parameters.values()
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]


def _maker(path):
    """Returns the function `experiment` of a file."""
    if not path.is_file():
        raise FileNotFoundError(f"No such experiment file: {path}")
    make = _namespace(path).get("experiment")
    if not callable(make):
        raise ValueError(f"{path} must define a function `experiment(**options)`. Add it.")
    return make


def _namespace(path):
    namespace = {"__name__": path.stem, "__file__": str(path)}
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        exec(_compiled(path), namespace)
    finally:
        sys.path.pop(0)
    return namespace


def _compiled(path):
    """Returns the code of a file, in the encoding that it names."""
    content = path.read_bytes()
    if b"\0" in content:  # Python's error names no file for null bytes
        raise ValueError(f"{path} is not a Python file. It contains null bytes.")
    try:
        return compile(content, str(path), "exec")
    except SyntaxError as error:
        if error.filename == str(path):
            raise
        said = error
    except (ValueError, RecursionError, MemoryError) as error:  # for example, brackets without end
        said = error
    raise ValueError(f"{path} is not a Python file. Python cannot read it ({said}).") from said


def _bound(path, make, options):
    """Returns all options that the function gets, with its defaults; seeds are the experiment's."""
    parameters = inspect.signature(make).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in options:
            if name not in parameters:
                raise ValueError(f"{path} has no option `{name}`. "
                                 f"It has: {', '.join(parameters) or 'none'}.")  # fmt: skip
    defaults = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
    given = {**defaults, **options}
    return described({name: placed(name, given[name]) for name in given if name != "seeds"})


def placed(name, value):
    """Returns an option's value; a path becomes independent of the working directory."""
    return os.path.abspath(value) if name in PATHS and isinstance(value, str) else value


def _fingerprints(path):
    """Returns `{name: hash of its content}` of the file and of imported modules beside it."""
    folder = path.parent.resolve()
    modules = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    places = {os.path.dirname(file) for file in modules}
    here = {place for place in places if pathlib.Path(place).resolve() == folder}
    beside = [pathlib.Path(file) for file in modules
              if file.endswith(".py") and os.path.dirname(file) in here]  # fmt: skip
    files = {file.name: file for file in sorted(beside)}
    files["the experiment's file"] = path
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
