"""Compares a teacher with its students, for the examples whose images are drawn by a seed."""

import argparse
import functools
import pathlib

from settings import add_settings

from keras_distill.experiments import Arm, Runner


def options(about, arguments, *, out, tiny, **settings):
    """Parses the command line, with an option for each of `settings`.

    Args:
        about: the description of the example.
        arguments: a list of arguments, or `None` for those of the program.
        out: the default folder of the results.
        tiny: `{name: value}` of the settings that `--tiny` changes beside seeds and epochs.
        **settings: the defaults of the settings.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", default=out, type=pathlib.Path, help="the folder of the results")
    parser.add_argument("--tiny", action="store_true", help="few small images, one seed, one epoch")
    add_settings(parser, **settings)
    given = parser.parse_args(arguments)
    if given.tiny:
        vars(given).update(seeds=1, epochs=1, teacher_epochs=1, **tiny)
    return given


def splits(given, scenes):
    """Returns the training images and the test images with their labels, from different seeds."""
    return {
        "train": scenes(given.images, given.size, seed=0),
        "test": scenes(given.test, given.size, seed=1),
    }


def compared(given, kinds, train, measure):
    """Trains and measures a teacher and a student for each kind of terms.

    Args:
        given: the parsed options, as `options` returns them.
        kinds: the names of the kinds.
        train: `train(kind, seed, teacher)` returns `(model, record)`. It trains the teacher if
            `kind` is `"teacher"`. `teacher` is then `None`.
        measure: a function from a model to its row of the table, `{column: number}`.
    """

    def teacher(seed, model_of):
        return train("teacher", seed, None)

    def student(kind, seed, model_of):
        return train(kind, seed, model_of("teacher"))

    def row(seed, model, model_of):
        return measure(model)

    arms = {"teacher": Arm(teacher, row, once=True)}
    for kind in kinds:
        arms[kind] = Arm(functools.partial(student, kind), row)
    settings = {name: value for name, value in vars(given).items() if name not in ("out", "seeds")}
    return Runner(arms, seeds=given.seeds, folder=given.out, settings=settings).run(resume=True)
