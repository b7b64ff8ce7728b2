"""`layers`: lists the paths that a term can tap in a saved model."""

from keras_distill.cli import program
from keras_distill.cli.main import VERBS

EXAMPLE = "python -m keras_distill layers runs/quickstart/teacher.keras"


def parser():
    """Returns the verb's arguments."""
    parser = program.Parser("layers", VERBS["layers"], EXAMPLE)
    parser.add_argument("model", metavar="MODEL", help="the model, a .keras file")
    return parser


def act(arguments):
    """Prints every path with its output's shape."""
    model = program.model_of(arguments.model)
    from keras_distill import taps

    shapes = taps.shapes(model)
    width = max(map(len, shapes), default=0)
    for path, shape in shapes.items():
        print(f"{path:{width}}  {'-' if shape is None else shape}")
    return 0
