"""`compress`: from a teacher to the smallest student that is good enough."""

import os
import shlex
import sys

from keras_distill.cli import program, quiet
from keras_distill.cli.main import VERBS

EXAMPLE = (
    "python -m keras_distill compress --experiment=examples/quickstart.py --out=runs/small "
    "--keep=0.99"
)


def parser():
    """The verb's arguments."""
    parser = program.Parser("compress", VERBS["compress"], EXAMPLE)
    program.add_experiment(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder of the run")
    parser.add_argument("--teacher", metavar="FILE", help="a trained teacher, a .keras file "
                        "(default: the experiment trains one)")  # fmt: skip
    for name, what in (("ms", "the maximum latency at batch size 1, in milliseconds"),
                       ("mb", "the maximum size of the .keras file, in megabytes"),
                       ("flops", "the maximum number of operations of a prediction")):  # fmt: skip
        parser.add_argument(f"--max-{name}", type=float, metavar="X", help=what)
    parser.add_argument("--keep", type=float, metavar="SHARE", help="find the smallest student "
                        "that keeps this share of the teacher's accuracy (0 to 1)")  # fmt: skip
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
    held = parser.add_mutually_exclusive_group()
    held.add_argument("--overwrite", action="store_true", help="delete the run in DIR first")
    held.add_argument("--resume", action="store_true", help="continue the run in DIR")
    return parser


def act(arguments):
    """Compresses; an interruption leaves what `--resume` goes on with."""
    options = program.options_of(arguments)
    for kind, file in (("experiment", arguments.experiment), ("model", arguments.teacher)):
        if file is not None and not os.path.isfile(file):
            raise FileNotFoundError(f"No such {kind} file: {file}")
    sizes = _sizes(arguments.sizes)
    quiet.import_keras(program.verbose())
    from keras_distill.experiments.compressing import compress

    names = ("teacher", "max_ms", "max_mb", "max_flops", "keep", "repeats", "seed", "overwrite",
             "resume")  # fmt: skip
    command = shlex.join(["python", "-m", "keras_distill", *sys.argv[1:]])
    try:
        compress(arguments.experiment, arguments.out, options=options, sizes=sizes,
                 command=command, quantize=arguments.quantize,
                 formats=arguments.format.split(",") if arguments.format else (),
                 **{name: getattr(arguments, name) for name in names})  # fmt: skip
    except KeyboardInterrupt as interruption:
        print("\nInterrupted. To continue, run the same command with --resume.", file=sys.stderr)
        return program.code_of(interruption)
    return 0


def _sizes(text):
    if text is None:
        return None
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(size > 0 for size in found):
        raise ValueError(f"--sizes takes positive numbers, as in 1,0.5. Received: {text}")
    return found
