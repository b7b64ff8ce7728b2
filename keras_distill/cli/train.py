"""`train`: runs an experiment."""

import os
import shlex

from keras_distill.cli import program, quiet
from keras_distill.cli.main import VERBS

EXAMPLE = "python -m keras_distill train --experiment=examples/quickstart.py --out=runs/quickstart"


def parser():
    """Returns the verb's arguments."""
    parser = program.Parser("train", VERBS["train"], EXAMPLE)
    program.add_experiment(parser)
    program.add_devices(parser)
    program.add_run(parser)
    parser.add_argument("--cache", metavar="DIR", help="write the teacher's targets to DIR once, "
                        "and train the distilled students from them")  # fmt: skip
    return parser


def act(arguments):
    """Runs the experiment; an interrupted run can be resumed."""
    quiet.import_keras(program.verbose())
    from keras_distill.experiments.run_folder import RUN

    held = os.path.exists(os.path.join(arguments.out, RUN))
    if held and not (arguments.overwrite or arguments.resume):
        raise FileExistsError(
            f"{arguments.out} already holds a run. Give --resume to continue it, or --overwrite to "
            "delete it."
        )
    with program.on_devices(arguments) as strategy:
        experiment = program.experiment_of(arguments)
        names = ("overwrite", "resume", "cache")
        code = program.resumable(
            lambda: experiment.run(
                arguments.out, command=command(arguments), strategy=strategy,
                **{name: getattr(arguments, name) for name in names},
            ),
            f"{command(arguments)} --resume",
        )  # fmt: skip
    if not code:
        for what, line in next_commands(arguments).items():
            print(f"\n{what}:\n  {line}")
    return code


def command(arguments):
    """Returns the command line that makes the run in an empty folder."""
    words = ["python", "-m", "keras_distill", "train", *_given(arguments)]
    words += [f"--cache={arguments.cache}"] if arguments.cache else []
    words += [f"--strategy={arguments.strategy}"] if arguments.strategy != "none" else []
    words += [f"--mesh={arguments.mesh}"] if arguments.mesh else []
    return shlex.join([*words, f"--out={arguments.out}"])


def next_commands(arguments):
    """Returns three commands to try after a finished run, each with its purpose."""
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
    """Returns the words that choose the experiment and its options."""
    words = [f"--experiment={arguments.experiment}"]
    for name in ("data", "tfds", "tsv"):
        if getattr(arguments, name) is not None:
            words.append(f"--{name}={getattr(arguments, name)}")
    return words + [word for pair in arguments.set for word in ("--set", pair)]
