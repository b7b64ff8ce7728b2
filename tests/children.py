"""Scripts of the tests that need a process of their own, which prints what it found as JSON."""

import json
import os
import pathlib
import subprocess
import sys

TESTS = pathlib.Path(__file__).parent


def start(script, *arguments):
    """A process that runs a script of this folder, on the CPU, with the package in its path."""
    path = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(TESTS / script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1"},
    )


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
