"""`shrink`: cuts a student from a saved teacher."""

import os

from keras_distill.cli import program
from keras_distill.cli.main import VERBS

EXAMPLE = "python -m keras_distill shrink --model=teacher.keras --layers=0,2,4 --out=student.keras"


def parser():
    """Returns the verb's arguments."""
    parser = program.Parser("shrink", VERBS["shrink"], EXAMPLE)
    parser.add_argument("--model", required=True, metavar="FILE", help="the teacher, a .keras file")
    parser.add_argument("--out", required=True, metavar="FILE", help="the student, a .keras file")
    parser.add_argument("--layers", metavar="N,N", help="the positions of the blocks to keep")
    parser.add_argument(
        "--every", type=int, metavar="N", help="keep every Nth block, starting with block 0"
    )
    parser.add_argument("--depth", type=int, metavar="N",
                        help="keep N blocks, evenly spaced from first to last")  # fmt: skip
    parser.add_argument(
        "--width", metavar="N", help="the new hidden size, or a share of the old one such as 0.5"
    )
    parser.add_argument("--vocabulary", metavar="N|FILE",
                        help="keep the first N tokens, or the token ids in FILE")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an existing student")
    return parser


def act(arguments):
    """Writes the student, and prints how much smaller it is."""
    asked = {
        "layers": _whole_numbers("layers", arguments.layers),
        "every": arguments.every,
        "depth": arguments.depth,
        "width": _width(arguments.width),
        "vocabulary": _vocabulary(arguments.vocabulary),
    }
    _check_out(arguments)
    teacher = program.model_of(arguments.model)
    from keras_distill import _files, models

    student = models.shrink(teacher, **asked)
    with _files.whole(arguments.out) as part:
        student.save(part)
    small, large = student.count_params(), teacher.count_params()
    print(f"{arguments.out} has {small:,} of the teacher's {large:,} parameters "
          f"({small / large:.1%}).")  # fmt: skip
    return 0


def _check_out(arguments):
    if not arguments.out.endswith(".keras"):
        raise ValueError(f"--out must end in .keras. Received: {arguments.out}")
    if os.path.exists(arguments.out) and not arguments.overwrite:
        raise ValueError(f"{arguments.out} exists. Give another --out, or add --overwrite.")
    folder = os.path.dirname(arguments.out) or "."
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"No such folder: {folder}")


def _whole_numbers(flag, text):
    try:
        return None if text is None else [int(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"--{flag} takes whole numbers, as in 0,2,4. Received: {text}") from None


def _width(text):
    try:
        return None if text is None else (int(text) if text.isdigit() else float(text))
    except ValueError:
        raise ValueError(f"--width takes a number such as 384 or 0.5. Received: {text}") from None


def _vocabulary(text):
    if text is None or text.isdigit():
        return text and int(text)
    words = [word for line in program.lines_of("--vocabulary", text) for word in line.split()]
    return _whole_numbers("vocabulary", ",".join(words))
