"""`train`: runs an experiment."""

import os
import shlex
import sys

from keras_distill.cli import program, quiet
from keras_distill.cli.main import VERBS

EXAMPLE = "python -m keras_distill train --experiment=examples/quickstart.py --out=runs/quickstart"


def parser():
    """The verb's arguments."""
    parser = program.Parser("train", VERBS["train"], EXAMPLE)
    program.add_experiment(parser)
    program.add_strategy(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder of the run")
    parser.add_argument("--cache", metavar="DIR", help="write the teacher's targets to DIR once, "
                        "and train the distilled students from them")  # fmt: skip
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--overwrite", action="store_true", help="delete the run in DIR first")
    what.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in DIR with the same options; more seeds may be added",
    )
    return parser


def act(arguments):
    """Runs the experiment; an interruption leaves a run that can be resumed."""
    quiet.import_keras(program.verbose())
    from keras_distill.experiments.run_folder import RUN

    held = os.path.exists(os.path.join(arguments.out, RUN))
    if held and not (arguments.overwrite or arguments.resume):
        raise FileExistsError(
            f"{arguments.out} already holds a run. Give --resume to continue it, or --overwrite to "
            "delete it."
        )
    strategy = program.strategy_of(arguments)
    experiment = program.experiment_of(arguments)
    try:
        experiment.run(
            arguments.out,
            overwrite=arguments.overwrite,
            resume=arguments.resume,
            command=command(arguments),
            cache=arguments.cache,
            strategy=strategy,
        )
    except KeyboardInterrupt as interruption:
        again = f"{command(arguments)} --resume"
        print(f"\nInterrupted. To continue, run {again}", file=sys.stderr)
        return program.code_of(interruption)
    for what, line in next_commands(arguments).items():
        print(f"\n{what}:\n  {line}")
    return 0


def command(arguments):
    """The command line that makes the run in an empty folder."""
    words = ["python", "-m", "keras_distill", "train", *_given(arguments)]
    words += [f"--cache={arguments.cache}"] if arguments.cache else []
    words += [f"--strategy={arguments.strategy}"] if arguments.strategy != "none" else []
    return shlex.join([*words, f"--out={arguments.out}"])


def next_commands(arguments):
    """Three commands to try after a finished run, each by what it does."""
    out, given = os.path.normpath(arguments.out), _given(arguments)
    teacher = f"--teacher={os.path.join(out, 'teacher.keras')}"
    found = {
        "Next, compare the models on one page": ["report", out, *given],
        "Search for better settings": ["tune", *given, teacher, f"--out={out}-tune"],
        "Find a smaller student": ["compress", *given, teacher, "--keep=0.99",
                                   f"--out={out}-small"],
    }  # fmt: skip
    start = [program.python(), "-m", "keras_distill"]
    return {what: shlex.join([*start, *words]) for what, words in found.items()}


def _given(arguments):
    """The words that choose the experiment and its options."""
    words = [f"--experiment={arguments.experiment}"]
    for name in ("data", "tfds", "tsv"):
        if getattr(arguments, name) is not None:
            words.append(f"--{name}={getattr(arguments, name)}")
    return words + [word for pair in arguments.set for word in ("--set", pair)]
