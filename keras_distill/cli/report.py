"""`report`: compares the models that runs trained and exported, on one page."""

import os

from keras_distill.cli import export_inputs, program, quiet
from keras_distill.cli.main import VERBS

EXAMPLE = (
    "python -m keras_distill report runs/quickstart --experiment=examples/quickstart.py "
    "--out=quickstart.html"
)


def parser():
    """Returns the verb's arguments."""
    parser = program.Parser("report", VERBS["report"], EXAMPLE)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="the folder of a run of `train`, of "
        "`compress` or of `experiments.Runner`")  # fmt: skip
    add("--out", metavar="FILE.html", help="the page; Markdown and JSON are written beside it "
        "(default for one run: comparison.html in its folder)")  # fmt: skip
    add("--exported", action="append", default=[], metavar="PATH", help="another exported model of "
        "the distilled student, beside those in the run's folder; may be repeated")  # fmt: skip
    add("--split", default="test", choices=("train", "valid", "test"), help="the split of "
        "--experiment's data to measure on (default: test); without --experiment the report "
        "measures the examples that the run saved")  # fmt: skip
    add("--labels", metavar="FILE", help="a text file with one class name per line")
    add("--timings", type=int, default=50, metavar="N", help="how many predictions of each model "
        "to time (default: 50)")  # fmt: skip
    program.add_experiment(parser, required=False)
    return parser


def act(arguments):
    """Measures every run and writes one page for all."""
    runs = [os.path.normpath(run) for run in arguments.runs]
    for run in runs:
        if not os.path.isdir(run):
            raise FileNotFoundError(f"No such run: {run}")
    if len(runs) > 1 and (arguments.out is None or arguments.exported):
        raise ValueError(
            "Several runs need --out and cannot take --exported. Give --out=FILE.html, and export "
            "into the folders of the runs."
        )
    quiet.import_keras(program.verbose())
    from keras_distill import _files, report
    from keras_distill.report.comparison import checked_paths
    from keras_distill.report.page import check_plots

    out = arguments.out or os.path.join(runs[0], "comparison.html")
    checked_paths(out)
    check_plots()
    _files.check_writable(os.path.dirname(out) or ".")
    from keras_distill.cli import report_inputs

    experiment = program.experiment_of(arguments) if arguments.experiment else None
    classes = export_inputs.labels(arguments.labels)
    known = {run: report_inputs.measured_itself(run) for run in runs}
    folders = {run: report_inputs.run_of(run) for run in runs if known[run] is None}
    sources = {run: report_inputs.data_of(folder, experiment, arguments.split)
               for run, folder in folders.items()}  # fmt: skip
    found = []
    for run in runs:
        if known[run] is not None:
            found.append(known[run])
            print(f"{run}: {found[-1].headline()}")
            continue
        folder, (batches, data) = folders[run], sources[run]
        models, histories = report_inputs.trained(folder)
        teacher = models.pop("teacher")
        with quiet.filtered(program.verbose()):
            found.append(report.compare(
                teacher,
                models,
                batches,
                task=report_inputs.task_of(folder, experiment),
                exported={"distilled": [*report_inputs.exported(run), *arguments.exported]},
                classes=classes,
                histories=histories,
                provenance=report_inputs.provenance(folder, data),
                name=report_inputs.name_of(folder) if len(runs) == 1 else run,
                runs=arguments.timings,
                memory=True,
            ))  # fmt: skip
        print(f"{run}: {found[-1].headline()} It was measured on {data}.")
    paths = report.write_together(out, found)
    print(f"The report: {', '.join(paths)}")
    return 0
