"""`export`: writes a saved student for TF Serving."""

from keras_distill.cli import program
from keras_distill.cli.main import VERBS

EXAMPLE = (
    "python -m keras_distill export --model=runs/quickstart/student.keras "
    "--out=serving --name=digits"
)


def parser():
    """The verb's arguments."""
    parser = program.Parser("export", VERBS["export"], EXAMPLE)
    parser.add_argument("--model", required=True, metavar="FILE", help="the student, a .keras file")
    parser.add_argument("--out", required=True, metavar="DIR", help="the models' folder")
    parser.add_argument("--name", required=True, help="the model's name: DIR/NAME/1 is written")
    return parser


def act(arguments):
    """Writes the SavedModel, and compares it with the student in a fresh process."""
    import numpy as np

    from keras_distill import export

    model = program.model_of(arguments.model)
    path = export.write_saved_model(model, arguments.out, name=arguments.name)
    generator = np.random.default_rng(0)
    inputs = {tensor.name: _example(tensor, generator) for tensor in model.inputs}
    example = inputs if len(inputs) > 1 else next(iter(inputs.values()))
    difference = export.check_saved_model(path, example, model.predict(example, verbose=0))
    print(f"{path} (reloaded: differs by at most {difference:.1e})")
    return 0


def _example(tensor, generator):
    """Four random inputs for a symbolic one."""
    shape = (4, *(size or 8 for size in tensor.shape[1:]))
    if "int" in tensor.dtype or tensor.dtype == "bool":
        return generator.integers(0, 2, shape).astype(tensor.dtype)
    return generator.random(shape).astype(tensor.dtype)
