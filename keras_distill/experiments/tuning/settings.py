"""The settings that can be swept, and the experiments that they make."""

import copy
import inspect
import itertools
import math
import pathlib
import random
from os import PathLike
from typing import Any

from keras_distill import recipes
from keras_distill.experiments.file import load_experiment, options_of, placed
from keras_distill.experiments.run_folder import loaded
from keras_distill.recipes.recipe import FROZEN
from keras_distill.schedules import check, is_number

TERMS = ("recipe", "temperature", "weight")
TEACHING = (*TERMS, "alpha")  # settings that a student alone does not have
DATA = ("data", "tfds", "tsv")
FIXED = ("seeds", *DATA)  # settings that are the same for all trials
SWEEP = {"recipe": ["hinton", "dkd", "dist"], "temperature": [1.0, 2.0, 4.0],
         "alpha": [0.25, 0.5, 0.9]}  # fmt: skip


def combinations(sweep: dict[str, list], *, trials: int | None = None, seed: int = 0) -> list[dict]:
    """Returns every combination of the values once.

    Args:
        sweep: `{name: [values]}`. Recipes without a temperature get none.
        trials: how many combinations to draw at random, at least 1. Defaults to `None`, which is
            all.
        seed: the seed of the draw, an integer. Defaults to `0`.

    Returns:
        A list of dicts `{name: value}`.

    Raises:
        ValueError: if a name may not differ between trials or has no values, or a recipe is
            unknown.

    Example:

    ```python
    sweep = {"recipe": ["hinton", "dist"], "temperature": [1, 4]}
    experiments.tuning.combinations(sweep)  # four dicts
    ```
    """
    for name, values in sweep.items():
        if name in FIXED or name.startswith("teacher"):
            raise ValueError(
                f"`{name}` cannot be swept, because all trials share the teacher, its targets and "
                "the data. Give it as an option instead."
            )
        if not isinstance(values, (list, tuple)) or not values:
            raise ValueError(f"`{name}` needs a list of values. Received: {values!r}")
    every = [dict(zip(sweep, values)) for values in itertools.product(*sweep.values())]
    found = list({str(setting): setting for setting in map(_sensible, every)}.values())
    if trials is None or trials >= len(found):
        return found
    if trials < 1:
        raise ValueError(f"`trials` must be at least 1. Received: trials={trials}")
    drawn = sorted(random.Random(seed).sample(range(len(found)), trials))
    return [found[index] for index in drawn]


def _sensible(setting):
    if "recipe" not in setting:
        return setting
    takes = inspect.signature(_recipe(setting["recipe"])).parameters
    return {name: v for name, v in setting.items() if name != "temperature" or name in takes}


def _recipe(name):
    if name not in known_recipes():
        raise ValueError(f"`recipe` must be one of {', '.join(known_recipes())}. Received: {name}")
    return FROZEN[name]


def known_recipes():
    """Returns the recipes with a frozen teacher that need only it and a student."""
    return sorted(name for name, recipe in FROZEN.items() if _needs_only_models(recipe))


def _needs_only_models(recipe):
    parameters = inspect.signature(recipe).parameters.items()
    needed = {name for name, parameter in parameters if parameter.default is parameter.empty}
    return needed in (set(), {"student", "teacher"})


def alone(setting):
    """Returns the part of a setting for a student without a teacher: its options, epochs."""
    return {name: value for name, value in setting.items() if name not in TEACHING}


def chosen(
    file: str | PathLike[str],
    setting: dict[str, Any],
    *,
    trained_teacher: str | PathLike[str] | None = None,
    trained_with: dict | None = None,
    **options,
) -> Any:
    """Returns the experiment of a file with a setting of `tune`, as in the winner's file.

    Options that `experiment(**options)` of the file takes are passed to it. Of the others,
    `recipe`, `temperature` and `weight` (a factor on the weight of each term) make the terms, and
    `alpha` and `epochs` replace those of the experiment. If there is a `recipe`, these three
    always make the terms.

    Args:
        file: the experiment's file.
        setting: a dict of the chosen values.
        trained_teacher: the `.keras` file of a trained teacher, instead of the experiment's own.
            It is not used if `options` give other data, or change an option whose name begins with
            "teacher". Defaults to `None`, which is none.
        trained_with: a dict of the options that this teacher was trained with. `options` override
            them. Defaults to none.
        options: more options of the experiment, which override the setting.

    Returns:
        An `Experiment`.

    Raises:
        FileNotFoundError: if there is no such teacher.
        ValueError: if the file does not take an option that is none of the above, or a value is out
            of its range.

    Example:

    ```python
    setting = {"recipe": "dist", "temperature": 4, "alpha": 0.9}
    experiment = experiments.tuning.chosen("examples/quickstart.py", setting, seeds=5)
    ```
    """
    before = dict(trained_with or {})
    taken = options_of(file)
    own = {*TERMS} if "recipe" in setting else set()
    ours = {name: v for name, v in setting.items() if name not in taken or name in own}
    unknown = set(ours) - {*TEACHING, "epochs"}
    if unknown:
        raise ValueError(
            f"{file} has no option `{sorted(unknown)[0]}`. It has: {', '.join(taken) or 'none'}. "
            f"A sweep may also name {', '.join((*TEACHING, 'epochs'))}."
        )
    theirs = {name: value for name, value in setting.items() if name not in ours}
    experiment = under(load_experiment(file, {**theirs, **before, **options}), ours)
    if trained_teacher is not None and _same_teacher(before, options):
        _take_teacher(experiment, pathlib.Path(trained_teacher))
    return experiment


def _same_teacher(before, options):
    """Returns whether options keep the settings with which a teacher was trained."""
    given = {name: placed(name, value) for name, value in options.items()}
    theirs = [name for name in given if name in DATA or name.startswith("teacher")]
    return all(given[name] == placed(name, before.get(name)) for name in theirs)


def _take_teacher(experiment, path):
    """Gives an experiment a trained teacher."""
    if not path.is_file():
        raise FileNotFoundError(
            f"No such teacher: {path}. Run `tune` again, or set `TEACHER = None` in the winner's "
            "file to train a new teacher."
        )
    experiment.teacher = lambda: loaded(path)
    experiment.teacher_epochs = 0


def under(experiment, ours):
    """Returns the experiment with the setting's `recipe`, `alpha`, `epochs` and so on."""
    if set(ours) & {*TERMS}:
        experiment.terms = _terms(experiment.terms, ours)
    if "alpha" in ours:
        experiment.alpha = check("alpha", ours["alpha"], low=0, high=1)
    if "epochs" in ours:
        experiment.epochs = _epochs(ours["epochs"])
    return experiment


def _epochs(value):
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`epochs` must be whole numbers of at least 1. Received: {value!r}")
    return value


def _terms(before, ours):
    """Returns a function of student and teacher that makes the terms of a setting."""
    if "recipe" not in ours and "temperature" not in ours:
        given = recipes.hinton() if before is None else before
        make = given if callable(given) else lambda student, teacher: given
    else:
        make = _by_recipe(ours)
    factor = ours.get("weight", 1.0)
    if not is_number(factor) or not 0 < factor < math.inf:
        raise ValueError(f"`weight` must be positive numbers. Received: {factor!r}")
    return lambda student, teacher: _weighted(make(student, teacher), factor)


def _by_recipe(ours):
    recipe = _recipe(ours.get("recipe", "hinton"))
    asked = {"temperature": ours["temperature"]} if "temperature" in ours else {}
    if "student" not in inspect.signature(recipe).parameters:
        recipe(**asked)  # raises an error for a wrong temperature
        return lambda student, teacher: recipe(**asked)
    return lambda student, teacher: recipe(student, teacher, **asked)


def _weighted(terms, factor):
    return [_times(term, factor) for term in terms] if factor != 1 else terms


def _times(term, factor):
    """Returns the term with its weight multiplied."""
    if not is_number(term.weight):
        raise ValueError(
            f"The weight of `{term.name}` is a schedule, which a sweep of `weight` cannot scale. "
            "Leave `weight` out of the sweep."
        )
    term = copy.copy(term)
    term.weight = term.weight * factor
    return term


def shown(setting, taught=True):
    """Returns a setting in words."""
    words = [value if name == "recipe" else f"{name} {value}" for name, value in setting.items()]
    return ", ".join([*([] if taught else ["alone"]), *words]) or "as it is"
