"""`compress`: finds the smallest student of a teacher that is good enough."""

from keras_distill.cli import program
from keras_distill.cli.main import VERBS

EXAMPLE = (
    "python -m keras_distill compress --experiment=examples/quickstart.py --out=runs/small "
    "--keep=0.99"
)


def parser():
    """Returns the verb's arguments."""
    parser = program.Parser("compress", VERBS["compress"], EXAMPLE)
    program.add_experiment(parser)
    program.add_devices(parser)
    program.add_run(parser)
    program.add_teacher(parser)
    for name, what in (("ms", "the maximum latency at batch size 1, in milliseconds"),
                       ("mb", "the maximum size of the .keras file, in megabytes"),
                       ("flops", "the maximum number of operations of a prediction")):  # fmt: skip
        parser.add_argument(f"--max-{name}", type=float, metavar="X", help=what)
    parser.add_argument("--keep", type=float, metavar="SHARE", help="find the smallest student "
                        "that keeps this share of the teacher's accuracy, or of its R squared in a "
                        "regression (0 to 1)")  # fmt: skip
    parser.add_argument("--sizes", metavar="X,X", help="the sizes to try, if the experiment has "
                        "`student(size=...)` (default: 1,0.7,0.5,0.35,0.25)")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3, metavar="N",
                        help="the seeds of the last comparison (default: 3)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N",
                        help="the seed of the search (default: 0)")  # fmt: skip
    parser.add_argument("--format", metavar="F,F", help="also export the student to DIR/exported: "
                        "serving, litert, onnx or openvino")  # fmt: skip
    parser.add_argument("--quantize", default="none", metavar="HOW",
                        help="quantize the export: none, float16, dynamic_int8, int8 or int4 "
                        "(default: none)")  # fmt: skip
    return parser


def act(arguments):
    """Compresses; `--resume` continues an interrupted run."""
    options = program.options_of(arguments)
    program.check_experiment(arguments.experiment)
    program.check_models(arguments.teacher)
    sizes = _sizes(arguments.sizes)
    formats = arguments.format.split(",") if arguments.format else ()
    with program.on_devices(arguments) as strategy:
        from keras_distill.experiments.compressing import compress

        names = ("teacher", "max_ms", "max_mb", "max_flops", "keep", "repeats", "seed", "quantize",
                 "overwrite", "resume")  # fmt: skip
        return program.resumable(
            lambda: compress(
                arguments.experiment, arguments.out, options=options, sizes=sizes, formats=formats,
                strategy=strategy, command=program.given_command(),
                **{name: getattr(arguments, name) for name in names},
            ),
            "the same command with --resume",
        )  # fmt: skip


def _sizes(text):
    if text is None:
        return None
    try:
        found = [int(part) if part.strip().isdigit() else float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(size > 0 for size in found):
        raise ValueError(f"--sizes takes positive numbers, as in 1,0.5. Received: {text}")
    return found
