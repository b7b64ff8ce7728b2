"""Processes of their own for tests, whose scripts print what they found as JSON.

They are forked from one process that has imported TensorFlow, Keras and the package, which takes
each of them 4 s otherwise. TensorFlow has not begun there, so that every child has the devices that
it asks for. A test of what an import does, or of another backend, starts a process by itself.
"""

import functools
import gc
import json
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile

TESTS = pathlib.Path(__file__).parent
IMPORTED = ["tensorflow", "keras_distill.losses", "keras_distill.cli.program"]


@functools.cache
def _forks():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


class Child:
    """A forked process, with what `subprocess.Popen` has of one whose output is text.

    Args:
        words: those behind `python`: a script of this folder or a path, or "-m" and a module, and
            the arguments.
        environment: all variables.
    """

    def __init__(self, words, environment):
        self.args, self._place = [*map(str, words)], tempfile.TemporaryDirectory()
        self._said = [os.path.join(self._place.name, name) for name in ("stdout", "stderr")]
        self._process = _forks().Process(
            target=_made, args=(self.args, dict(environment), self._said), daemon=True
        )
        self._process.start()

    @property
    def returncode(self):
        return self._process.exitcode

    def communicate(self, timeout=None):
        """What it has said on stdout and on stderr; it is killed after so many seconds."""
        self._process.join(timeout)
        if self.returncode is None:
            self._process.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self.args, timeout, *self._read())
        return self._read()

    def _read(self):
        return [open(path).read() if os.path.exists(path) else "" for path in self._said]


def _made(words, environment, said):
    """What the forked process does."""
    for number, path in zip((1, 2), said):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    gc.freeze(), gc.set_threshold(50_000, 20, 20)  # as in `conftest.py`
    tempfile.tempdir = os.path.dirname(said[0])
    os.environ.clear()
    os.environ.update(environment)
    sys.modules["numpy"].random.seed()  # Python's own random numbers begin anew in each fork
    if sys.modules["keras"].backend.backend() == "tensorflow":
        from untuned import tune_nothing  # the same rounding as in the process that tests

        tune_nothing()
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, script = words, TESTS / words[0]
        sys.path.insert(0, str(script.parent))
        runpy.run_path(str(script), run_name="__main__")


def start(*words, **environment):
    """A `Child` on the CPU."""
    return Child(words, {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **environment})


def result(child, timeout):
    """What the process prints last, within so many seconds."""
    return json.loads(_lines(child, timeout)[-1])


def results(child, timeout):
    """What the process prints in lines that begin as a dict does, all in one."""
    found = {}
    for line in _lines(child, timeout):
        found |= json.loads(line) if line.startswith("{") else {}
    return found


def _lines(child, timeout):
    output, errors = child.communicate(timeout=timeout)
    assert child.returncode == 0, errors[-6000:]
    return output.splitlines()
