"""The parts of all verbs: parsing arguments, and handling errors."""

import argparse
import ast
import contextlib
import io
import os
import shlex
import shutil
import signal
import sys
import threading
import traceback

from absl import app, flags
from absl.flags import argparse_flags

from keras_distill.cli import mistakes, quiet


class Parser(argparse_flags.ArgumentParser):
    """An argument parser that prints an error in one line."""

    def __init__(self, verb, what, example):
        super().__init__(
            prog=f"keras_distill {verb}",
            description=f"{what[0].upper()}{what[1:]}.",
            epilog=f"example:\n  {example}\n\nAdd --verbosity=1 to see the traceback of an error.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse_args(self, args=None, namespace=None):
        """Returns the arguments; refuses an empty one, as from an unset variable of a shell."""
        arguments = super().parse_args(args, namespace)
        for action in self._actions:
            given = getattr(arguments, action.dest, None)
            if given == "" or (isinstance(given, list) and "" in given):
                name = action.option_strings[-1] if action.option_strings else action.metavar
                self.error(f"{name} is empty. Give a value, or leave it out.")
        given = [each if isinstance(each, list) else [each] for each in vars(arguments).values()]
        self._check_locale([os.getcwd(), *map(str, sum(given, []))])
        return arguments

    def _check_locale(self, texts):
        """Refuses text that is no UTF-8: TensorFlow would write to another path."""
        encoding = sys.getfilesystemencoding()
        if encoding.lower() != "utf-8" and not all(text.isascii() for text in texts):
            self.error(
                f"the locale reads file names as {encoding}, and a word here has other letters "
                "than ASCII. Set the environment variable PYTHONUTF8=1."
            )

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def run(parser, act, argv):
    """Runs `act(arguments)` as an absl program; returns the exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for stream in (sys.stdout, sys.stderr):  # the locale may lack some characters
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app.run(
            lambda arguments: _guarded(parser.prog, act, arguments),
            argv=[argv[0], "--verbosity=-1", *argv[1:]],  # absl's default shows libraries' notes
            flags_parser=lambda argv: parser.parse_args(argv[1:]),
        )
    except SystemExit as end:
        return end.code or 0


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled as Ctrl-C except for the exit code."""


def code_of(interruption):
    """Returns the exit code after a `KeyboardInterrupt`: 128 plus the signal's number."""
    return 143 if isinstance(interruption, Terminated) else 130


@contextlib.contextmanager
def _terminable():
    """Raises `Terminated` at SIGTERM within the block, if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(*_):
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _guarded(name, act, arguments):
    try:
        with _terminable():
            return act(arguments)
    except KeyboardInterrupt as interruption:
        print(f"{name}: interrupted.", file=sys.stderr)
        return code_of(interruption)
    except SystemExit as end:
        place = mistakes.place_of_end(end, _users_folder(arguments))
        if place is None:
            raise
        print(f"{name}: {place}: this line ended the process, so nothing was done. Remove it. "
              f"Received: sys.exit({end.code!r})", file=sys.stderr)  # fmt: skip
        return 2
    except Exception as error:
        said = mistakes.line(error, _users_folder(arguments))
        if said is None:
            raise
        if verbose():
            traceback.print_exc()
        print(f"{name}: {said}", file=sys.stderr)
        return 2


def python():
    """Returns the shell command of this interpreter: `python`, or its path."""
    found = shutil.which("python")
    if found and os.path.dirname(os.path.abspath(found)) == os.path.dirname(sys.executable):
        return "python"
    short = os.path.relpath(sys.executable)
    return sys.executable if short.startswith("..") else short


def verbose():
    """Returns whether to show tracebacks and the notes of libraries."""
    return flags.FLAGS.verbosity >= 1


def _users_folder(arguments):
    file = getattr(arguments, "experiment", None)
    return None if file is None else os.path.dirname(os.path.abspath(file))


def add_experiment(parser, required=True):
    """Adds the arguments that choose an experiment and its options."""
    parser.add_argument("--experiment", required=required, metavar="FILE",
                        help="a Python file that defines `experiment(**options)`")  # fmt: skip
    add_options(parser)


def add_options(parser):
    """The arguments that are options of an experiment."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="set an option of the experiment; may be repeated")  # fmt: skip
    for name, what in (("data", "a folder of data"), ("tfds", "a name in TensorFlow Datasets"),
                       ("tsv", "a file of tab-separated values")):  # fmt: skip
        parser.add_argument(f"--{name}", help=f"{what} (short for --set {name}=...)")


def add_devices(parser):
    """Adds the arguments that choose the devices for training."""
    parser.add_argument("--strategy", default="none", metavar="NAME", help="the devices to train "
                        "on with TensorFlow: none, mirrored (all GPUs of this machine), "
                        "multi_worker (the machines of TF_CONFIG) or tpu (default: "
                        "none)")  # fmt: skip
    parser.add_argument("--mesh", metavar="data:N[,model:N]", help="the devices to train on with "
                        "JAX: each batch is spread over the first N devices, each matrix over the "
                        "second (default: one device)")  # fmt: skip


def add_run(parser):
    """Adds the arguments for the folder of a run, and for an existing run in it."""
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder of the run")
    held = parser.add_mutually_exclusive_group()
    held.add_argument("--overwrite", action="store_true", help="delete the run in DIR first")
    held.add_argument("--resume", action="store_true", help="continue the run in DIR with "
                      "the same options; `train` may add seeds")  # fmt: skip


def add_teacher(parser):
    """Adds the argument for a search's teacher."""
    parser.add_argument("--teacher", metavar="FILE", help="a trained teacher, a .keras file "
                        "(default: the experiment trains one)")  # fmt: skip


@contextlib.contextmanager
def on_devices(arguments):
    """Applies the arguments for devices within the block; yields the strategy, or `None`.

    A strategy must be made before TensorFlow runs anything. A mesh is current within the block.
    """
    quiet.import_keras(verbose())
    from keras_distill.experiments.devices import mesh_by_text, strategy_by_name

    strategy = strategy_by_name(arguments.strategy)
    mesh = None if arguments.mesh is None else mesh_by_text(arguments.mesh)
    with contextlib.nullcontext() if mesh is None else mesh.scope():
        yield strategy


def given_command():
    """Returns the command line of this process."""
    return shlex.join(["python", "-m", "keras_distill", *sys.argv[1:]])


def resumable(work, again):
    """Runs `work()` and returns the exit code. After an interruption it prints how to continue.

    Args:
        work: a function without arguments.
        again: the command that continues.
    """
    try:
        work()
    except KeyboardInterrupt as interruption:
        print(f"\nInterrupted. To continue, run {again}", file=sys.stderr)
        return code_of(interruption)
    return 0


def options_of(arguments):
    """Returns the experiment's options in the arguments."""
    options = {n: v for n in ("data", "tfds", "tsv") if (v := getattr(arguments, n)) is not None}
    for pair in arguments.set:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"--set takes KEY=VALUE. Received: {pair}")
        options[key] = value(text)
    return options


def experiment_of(arguments):
    """Returns the experiment that the arguments choose."""
    options = options_of(arguments)
    check_experiment(arguments.experiment)
    quiet.import_keras(verbose())
    from keras_distill.experiments.file import load_experiment

    return load_experiment(arguments.experiment, options)


def check_experiment(path):
    """Raises an error if the experiment's file does not exist."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"No such experiment file: {path}")


def check_models(*paths):
    """Raises an error if a model's file does not exist; `None` is allowed."""
    for path in paths:
        if path is not None and not os.path.isfile(path):
            raise FileNotFoundError(f"No such model file: {path}")


def model_of(path):
    """Returns the saved Keras model at `path`."""
    check_models(path)
    quiet.import_keras(verbose())
    from keras_distill.experiments.run_folder import loaded

    return loaded(path)


def lines_of(flag, path):
    """Returns the lines of a text file that are not empty.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, or not text in UTF-8.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{flag} takes a file. No such file: {path}")
    with open(path, "rb") as file:
        content = file.read()
    try:
        found = [line for line in content.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{flag} takes text in UTF-8. Received: {path} ({error})") from error
    if not found:
        raise ValueError(f"{flag} takes a file that is not empty. Received: {path}")
    return found


def value(text):
    """Returns a number, list or other Python literal; other text stays text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
