"""`shrink`: cuts a student from a saved teacher."""

import math
import os

from keras_distill.cli import export_inputs, program
from keras_distill.cli.main import VERBS

BATCH = 32
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
    for name, what in (("width", "the new hidden size, or a share of the old one such as 0.5"),
                       ("heads", "the new number of attention heads, or a share (default: as many "
                        "as --width leaves)"),
                       ("feed-forward", "the new inner size of the feed-forward layers, or a share "
                        "(default: what --width leaves)")):  # fmt: skip
        parser.add_argument(f"--{name}", metavar="N", help=what)
    parser.add_argument("--importance", metavar="FILE", help="keep the units that matter most on "
                        "data: an .npz file of the teacher's inputs, or an experiment's .py file "
                        "for its training split (default: keep the first units)")  # fmt: skip
    parser.add_argument("--measure", default="activation", metavar="NAME",
                        help="how --importance is measured: activation (the size of what a unit "
                        "hands on) or taylor (what the experiment's loss would lose without it) "
                        "(default: activation)")  # fmt: skip
    parser.add_argument("--vocabulary", metavar="N|FILE",
                        help="keep the first N tokens, or the token ids in FILE")  # fmt: skip
    parser.add_argument("--same-ids", action="store_true", help="the student reads the teacher's "
                        "token ids; tokens outside --vocabulary share one vector")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an existing student")
    program.add_options(parser)
    return parser


def act(arguments):
    """Writes the student, and prints how much smaller it is."""
    asked = {
        "layers": _whole_numbers("layers", arguments.layers),
        "every": arguments.every,
        "depth": arguments.depth,
        "width": _size("width", arguments.width),
        "heads": _size("heads", arguments.heads),
        "feed_forward": _size("feed-forward", arguments.feed_forward),
        "vocabulary": _vocabulary(arguments.vocabulary),
        "same_ids": arguments.same_ids,
    }
    _check_out(arguments)
    _check_importance(arguments, asked)
    program.check_models(arguments.model)
    importance = _importance(arguments)  # an experiment may register the model's classes
    teacher = program.model_of(arguments.model)
    from keras_distill import _files, models

    student = models.shrink(teacher, **asked, **importance)
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


def _size(flag, text):
    try:
        found = None if text is None else (int(text) if text.isdigit() else float(text))
    except ValueError:
        found = math.nan
    if found is not None and not 0 < found < math.inf:
        raise ValueError(f"--{flag} takes a number such as 384 or 0.5. Received: {text}")
    return found


def _check_importance(arguments, asked):
    """Refuses what cannot be measured, before anything is read."""
    path, measure = arguments.importance, arguments.measure
    if measure not in ("activation", "taylor"):
        raise ValueError(f"--measure takes activation or taylor. Received: {measure}")
    if path is None:
        if measure != "activation":
            raise ValueError("--measure needs data. Add --importance=FILE.")
        return
    if all(asked[each] is None for each in ("width", "heads", "feed_forward")):
        raise ValueError(
            "--importance chooses units, so it needs a width. Add --width, --heads or "
            "--feed-forward."
        )
    if not path.endswith((".npz", ".py")):
        raise ValueError(
            f"--importance takes an .npz file or an experiment's .py file. Received: {path}"
        )
    if measure == "taylor" and path.endswith(".npz"):
        raise ValueError(
            "--measure=taylor needs labels and a loss, which only an experiment has. Give "
            f"--importance=EXPERIMENT.py. Received: {path}"
        )


def _importance(arguments):
    """The arguments of `models.shrink` that say what units are worth."""
    path, measure = arguments.importance, arguments.measure
    if path is None:
        return {}
    if path.endswith(".npz"):
        inputs, _ = export_inputs.arrays("--importance", path)
        return {"importance": _batches(inputs), "measure": measure}
    arguments.experiment = path  # so that an error in the user's file names its line
    experiment = program.experiment_of(arguments)
    return {"importance": experiment.data("train"), "measure": measure, "loss": experiment.loss}


def _batches(inputs):
    """Batches of arrays, or of dicts or tuples of arrays of as many rows."""
    several = isinstance(inputs, (dict, tuple))
    arrays = dict(enumerate(inputs)) if isinstance(inputs, tuple) else inputs
    arrays = arrays if several else {"inputs": inputs}
    rows = {len(each) if each.ndim else 0 for each in arrays.values()}
    if len(rows) != 1 or 0 in rows:
        raise ValueError(
            "--importance takes arrays with the same number of rows, at least one. Received: "
            f"{', '.join(f'{name} {each.shape}' for name, each in arrays.items()) or 'no array'}"
        )
    cut = [slice(start, start + BATCH) for start in range(0, rows.pop(), BATCH)]
    if isinstance(inputs, dict):
        return [{name: each[rows] for name, each in inputs.items()} for rows in cut]
    return [tuple(each[rows] for each in inputs) if several else inputs[rows] for rows in cut]


def _vocabulary(text):
    if text is None or text.isdigit():
        return text and int(text)
    words = [word for line in program.lines_of("--vocabulary", text) for word in line.split()]
    return _whole_numbers("vocabulary", ",".join(words))
