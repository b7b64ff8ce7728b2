"""`cache`: writes a teacher's targets to disk."""

from keras_distill.cli import program, quiet
from keras_distill.cli.main import VERBS

EXAMPLE = (
    "python -m keras_distill cache write targets --experiment=examples/quickstart.py "
    "--teacher=runs/quickstart/teacher.keras"
)


def parser():
    """Returns the verb's arguments."""
    parser = program.Parser("cache", VERBS["cache"], EXAMPLE)
    parser.add_argument("action", choices=("write", "verify", "info"),
                        help="write: compute and save the targets; verify: read every record and "
                        "compare a sample with the teacher; info: describe the cache")  # fmt: skip
    parser.add_argument("folder", metavar="DIR", help="the folder of the cache")
    program.add_experiment(parser, required=False)
    parser.add_argument("--teacher", metavar="FILE", help="the trained teacher, a .keras file")
    parser.add_argument("--split", default="train", choices=("train", "valid", "test"),
                        help="the split of the experiment's data (default: train)")  # fmt: skip
    parser.add_argument("--paths", metavar="PATH,PATH", help="the teacher's outputs and layers to "
                        "save (default: those that the experiment's terms read)")  # fmt: skip
    parser.add_argument("--top_k", type=int, metavar="K", help="save only the K most probable "
                        "classes and the total probability of the others")  # fmt: skip
    parser.add_argument("--temperature", type=float, default=1.0, metavar="T",
                        help="the temperature of --top_k (default: 1)")  # fmt: skip
    parser.add_argument("--dtype", default="float32", choices=("float16", "float32", "uint8"),
                        help="the type of the saved numbers (default: float32; uint8 needs "
                        "--top_k)")  # fmt: skip
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="write part I of N, counted "
                        "from 0 (default: 0/1, everything)")  # fmt: skip
    parser.add_argument("--rows", type=int, default=1000, metavar="N",
                        help="how many examples `verify` compares (default: 1000)")  # fmt: skip
    return parser


def act(arguments):
    """Writes, verifies or describes a cache; to continue an interrupted call, repeat it."""
    quiet.import_keras(program.verbose())
    from keras_distill import data

    if arguments.action == "info":
        print(data.TargetsOnDisk(arguments.folder).summary())
        return 0
    for name in ("experiment", "teacher"):
        if getattr(arguments, name) is None:
            raise ValueError(f"`cache {arguments.action}` needs --{name}. Give --{name}=FILE.")
    program.check_models(arguments.teacher)
    experiment = program.experiment_of(arguments)  # it may register the teacher's classes
    teacher = program.model_of(arguments.teacher)
    dataset = experiment.data(arguments.split)
    if arguments.action == "verify":
        return _verify(data.verify_targets(teacher, dataset, arguments.folder, rows=arguments.rows))
    return _write(arguments, teacher, dataset, _paths(arguments, experiment, teacher))


def _write(arguments, teacher, dataset, paths):
    from keras_distill import data

    def work():
        cache = data.write_targets(
            teacher, dataset, arguments.folder, paths=paths, top_k=arguments.top_k,
            temperature=arguments.temperature, dtype=arguments.dtype, shard=arguments.shard,
        )  # fmt: skip
        unfinished = "This part is written. Other parts are not written yet."
        print(cache.summary() if cache else unfinished)

    return program.resumable(work, f"the same command again: {program.given_command()}")


def _verify(found):
    print("Every record is intact.")
    for path, measured in found.items():
        numbers = (f"{name} {value:.3g}" for name, value in measured.items() if name != "rows")
        print(f"{path}: {measured['rows']} rows compared with the teacher, {', '.join(numbers)}")
    return 0


def _paths(arguments, experiment, teacher):
    if arguments.paths:
        return arguments.paths.split(",")
    return experiment.teacher_paths(teacher)
