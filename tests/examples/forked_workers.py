"""Runs an example whose workers are forked from a process that has imported all that they need.

Each worker would import TensorFlow and Keras for seconds. The example sees no difference: its
workers are processes with a pipe, an environment and arguments of their own. Each line of the
input holds the words of a run, as JSON. After each run a line says with what it has ended.
"""

import json
import os
import pathlib
import runpy
import subprocess
import sys

import keras  # noqa: F401
import sklearn.datasets  # noqa: F401
import tensorflow  # noqa: F401

import keras_distill.callbacks  # noqa: F401


class Forked:
    """Takes the place of `subprocess.Popen` for `[python, "-u", script, *arguments]`."""

    def __init__(self, command, *, env, text, stdout, stderr):
        out, into = os.pipe()
        sys.stdout.flush()
        self.returncode, self.pid = None, os.fork()
        if not self.pid:
            run(command[2:], env, into)
        os.close(into)
        self.stdout = os.fdopen(out)

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def kill(self):
        os.kill(self.pid, 9)


def run(words, env, into):
    """What a worker does, until it ends."""
    code = 1
    try:
        os.dup2(into, 1)
        os.dup2(into, 2)
        os.environ.update(env)
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
        code = 0
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    subprocess.Popen = Forked
    for line in sys.stdin:
        sys.argv = json.loads(line)
        sys.path[0] = str(pathlib.Path(sys.argv[0]).parent)
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            print(f"ended with {end.code}", flush=True)
