"""`export`: exports a saved student to TF Serving, phones, browsers and other runtimes."""

import os

from keras_distill.cli import export_inputs, program, quiet
from keras_distill.cli.main import VERBS

EXAMPLE = (
    "python -m keras_distill export --model=runs/quickstart --out=served --name=digits "
    "--format=serving,litert --quantize=int8"
)


def parser():
    """Returns the verb's arguments."""
    parser = program.Parser("export", VERBS["export"], EXAMPLE)
    add = parser.add_argument
    add("--model", required=True, metavar="FILE|RUN", help="a .keras file, or a run's folder")
    add("--out", required=True, metavar="DIR", help="the folder to write the models into")
    add("--name", help="the name of the exported model (default: the student's)")
    add("--format", default="serving", metavar="F,F",
        help="any of serving, litert, onnx, openvino (default: serving)")  # fmt: skip
    add("--quantize", default="none", metavar="HOW",
        help="none, float16, dynamic_int8, int8 or int4 (default: none)")  # fmt: skip
    add("--exit", metavar="NAME", help="export only this output, such as an early exit")
    add("--inputs", metavar="FILE.npz", help="real inputs for the comparison, one array for each "
        "input of the model; an array `targets` holds the labels")  # fmt: skip
    add("--calibration", metavar="FILE.npz", help="inputs to calibrate int8 on (default: --inputs)")
    add("--labels", metavar="FILE", help="a text file with one class name per line")
    add("--signature", metavar="S,S", help="signatures of the SavedModel beside serving_default: "
        "classify, image_bytes, examples, text, generate, generate_sampled (default: those of the "
        "first three that the student can have)")  # fmt: skip
    add("--image-range", default="0,1", metavar="LOW,HIGH",
        help="the range of the student's pixels, for image_bytes (default: 0,1)")  # fmt: skip
    add("--provenance", metavar="FILE.json", help="an object that says where the student comes "
        "from (default: that of the run)")  # fmt: skip
    add("--batch", type=int, metavar="N", help="a fixed batch size; a SavedModel takes any size")
    add("--agreement", type=float, default=0.9, metavar="SHARE", help="the minimum share of "
        "answers in which a quantized model agrees with the student (default: 0.9)")  # fmt: skip
    add("--version", type=int, metavar="N",
        help="the version number of the export (default: the next free one)")  # fmt: skip
    program.add_experiment(parser, required=False)
    return parser


def act(arguments):
    """Exports the student to each format, and checks it in a fresh process."""
    file = export_inputs.model_file(arguments.model)
    labels = export_inputs.labels(arguments.labels)
    inputs, targets = export_inputs.arrays("--inputs", arguments.inputs)
    image_range = export_inputs.image_range(arguments.image_range)
    provenance = export_inputs.provenance(arguments.provenance, arguments.model)
    calibration, _ = export_inputs.arrays("--calibration", arguments.calibration)
    experiment = program.experiment_of(arguments) if arguments.experiment else None
    model = program.model_of(file)
    from keras_distill import export
    from keras_distill.experiments.comparison import for_export

    if inputs is None and experiment is not None:
        inputs, targets = for_export(*export_inputs.of_experiment(experiment))
    elif inputs is None and os.path.isdir(arguments.model):
        inputs, targets = for_export(*export_inputs.of_run(arguments.model))

    with quiet.filtered(program.verbose()):
        written = export.write(
            model,
            arguments.out,
            arguments.format.split(","),
            name=arguments.name,
            quantize=arguments.quantize,
            exit=arguments.exit,
            inputs=inputs,
            targets=targets,
            calibration=calibration,
            labels=labels,
            batch=arguments.batch,
            version=arguments.version,
            agreement=arguments.agreement,
            signatures=arguments.signature.split(",") if arguments.signature else None,
            image_range=image_range,
            provenance=provenance,
        )
    for each in written:
        print(each)
    return 0
