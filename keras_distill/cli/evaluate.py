"""`evaluate`: measures a saved student."""

from keras_distill.cli import program
from keras_distill.cli.main import VERBS

EXAMPLE = (
    "python -m keras_distill evaluate --model=runs/quickstart/student.keras "
    "--teacher=runs/quickstart/teacher.keras --experiment=examples/quickstart.py"
)


def parser():
    """Returns the verb's arguments."""
    parser = program.Parser("evaluate", VERBS["evaluate"], EXAMPLE)
    parser.add_argument("--model", required=True, metavar="FILE", help="the student, a .keras file")
    parser.add_argument("--teacher", metavar="FILE", help="the student's teacher, a .keras file")
    parser.add_argument("--split", default="test", choices=("train", "valid", "test"),
                        help="the split of the experiment's data (default: test)")  # fmt: skip
    program.add_experiment(parser)
    return parser


def act(arguments):
    """Prints the table of measures."""
    program.check_models(arguments.model, arguments.teacher)
    experiment = program.experiment_of(arguments)  # it may register the models' classes
    model = program.model_of(arguments.model)
    teacher = program.model_of(arguments.teacher) if arguments.teacher else None
    from keras_distill import report

    data, task = experiment.data(arguments.split), experiment.task.name
    measured = {} if teacher is None else {"teacher": report.measure(teacher, data, task=task)}
    measured["student"] = report.measure(model, data, teacher, task)
    print(report.table({arm: report.summarize([values]) for arm, values in measured.items()}))
    return 0
