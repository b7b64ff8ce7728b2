"""`export`: writes a saved student for TF Serving."""

import shutil

from keras_distill.cli import program
from keras_distill.cli.main import VERBS

EXAMPLE = (
    "python -m keras_distill export --model=runs/quickstart/student.keras "
    "--out=serving --name=digits"
)
EXAMPLES = 8


def parser():
    """The verb's arguments."""
    parser = program.Parser("export", VERBS["export"], EXAMPLE)
    parser.add_argument("--model", required=True, metavar="FILE", help="the student, a .keras file")
    parser.add_argument("--out", required=True, metavar="DIR", help="the models' folder")
    parser.add_argument("--name", required=True, help="its name: DIR/NAME/VERSION is written")
    parser.add_argument("--version", type=int, default=1, help="the highest is served (default: 1)")
    return parser


def act(arguments):
    """Writes the SavedModel, and compares it with the student in a fresh process."""
    model = program.model_of(arguments.model)
    from keras_distill import export

    path = export.write_saved_model(
        model, arguments.out, name=arguments.name, version=arguments.version
    )
    examples = export.random_inputs(model, count=EXAMPLES)
    try:
        difference = export.check_saved_model(path, examples, export.answers(model, examples))
    except BaseException:
        shutil.rmtree(path)  # or TF Serving would serve what differs, or was not checked
        raise
    print(f"{path}: reloaded, differs by at most {difference:.1e} over {EXAMPLES} random examples.")
    return 0
