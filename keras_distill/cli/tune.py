"""`tune`: finds the best setting of an experiment."""

from keras_distill.cli import program
from keras_distill.cli.main import VERBS

EXAMPLE = (
    "python -m keras_distill tune --experiment=examples/quickstart.py --out=runs/tune "
    "--sweep recipe=hinton,dist --sweep temperature=1,2,4 --sweep alpha=0.5,0.9"
)


def parser():
    """Returns the verb's arguments."""
    parser = program.Parser("tune", VERBS["tune"], EXAMPLE)
    program.add_experiment(parser)
    program.add_devices(parser)
    program.add_run(parser)
    program.add_teacher(parser)
    parser.add_argument("--sweep", action="append", default=[], metavar="KEY=V,V",
                        help="the values to try of recipe, temperature, weight (of all terms), "
                        "alpha, epochs or an option of the experiment; may be repeated, then all "
                        "combinations are tried (default: three recipes, temperatures and "
                        "alphas)")  # fmt: skip
    for name, default, what in (
        ("trials", None, "try N random combinations (default: all)"),
        ("halvings", 2, "stop the worse half early, N times"),
        ("leaders", 3, "repeat the N best settings with several seeds"),
        ("repeats", 3, "the number of these seeds"),
        ("seed", 0, "the seed of the search"),
    ):
        told = what if default is None else f"{what} (default: {default})"
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=told)
    parser.add_argument("--cache", metavar="DIR",
                        help="the cache of the teacher's targets (default: in --out)")  # fmt: skip
    return parser


def act(arguments):
    """Searches; `--resume` continues an interrupted run."""
    sweep = dict(_values(pair) for pair in arguments.sweep)
    options = program.options_of(arguments)
    program.check_experiment(arguments.experiment)
    program.check_models(arguments.teacher)
    with program.on_devices(arguments) as strategy:
        from keras_distill.experiments.tuning import tune

        names = ("trials", "halvings", "leaders", "repeats", "seed", "teacher", "cache",
                 "overwrite", "resume")  # fmt: skip
        return program.resumable(
            lambda: tune(
                arguments.experiment, arguments.out, sweep, options=options, strategy=strategy,
                command=program.given_command(), **{n: getattr(arguments, n) for n in names},
            ),
            "the same command with --resume",
        )  # fmt: skip


def _values(pair):
    name, equals, values = pair.partition("=")
    if not equals or not name.isidentifier() or not values:
        raise ValueError(f"--sweep takes KEY=VALUE,VALUE. Received: {pair}")
    return name, [program.value(text) for text in values.split(",")]
