"""Finds the verb and passes it the rest of the command line."""

import importlib
import sys

VERBS = {
    "train": "train a teacher and a student, alone and distilled, and compare them",
    "tune": "find the best recipe, temperature and alpha of an experiment, over cached targets",
    "compress": "find, distill and export the smallest student that is good enough",
    "cache": "write a teacher's targets to disk, verify them or describe them",
    "evaluate": "measure a saved student on an experiment's data",
    "report": "compare a run's models and exports on one page, by quality and cost",
    "export": "export a saved student to TF Serving, phones, browsers and other runtimes",
    "layers": "print the path and shape of every layer of a saved model",
    "shrink": "cut a student with fewer blocks, units or tokens from a saved teacher",
}


def main(argv=None):
    """Runs one command line (by default the process's); returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    verb = argv[0]
    if verb not in VERBS:
        print(f"keras_distill: no command `{verb}`. Commands: {', '.join(VERBS)}.", file=sys.stderr)
        return 2
    from keras_distill.cli import program

    module = importlib.import_module(f"keras_distill.cli.{verb}")
    return program.run(module.parser(), module.act, argv)


def usage():
    """Returns the verbs, one per line."""
    lines = [f"  {verb:10}{what}" for verb, what in VERBS.items()]
    head = "usage: python -m keras_distill COMMAND [--help] ...\n\ncommands:\n"
    return head + "\n".join(lines)
