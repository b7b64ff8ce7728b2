"""Parts of all benchmarks: clocks, the description of the machine, results as JSON."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import time
import warnings

import keras
import numpy as np


def now():
    """Returns the CPU seconds of the process, with all threads, and the wall seconds."""
    return np.array([time.process_time(), time.perf_counter()])


class Clock(keras.callbacks.Callback):
    """Times an epoch or an evaluation from its beginning to its end."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = now()

    def on_epoch_end(self, epoch, logs=None):
        self.taken = now() - self.start

    def on_test_begin(self, logs=None):
        self.start = now()

    def on_test_end(self, logs=None):
        self.taken = now() - self.start


def timed(method, data):
    """Returns a function that runs one epoch by `fit` or `evaluate` and returns its time."""
    clock = Clock()

    def epoch():
        with warnings.catch_warnings():  # `fit` does not shuffle a dataset
            warnings.simplefilter("ignore")
            method(data, verbose=0, callbacks=[clock])
        return clock.taken

    return epoch


def peak_of(function):
    """Returns `(MB, result)`: the peak of resident memory above the memory before. Linux only."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = memory("VmRSS")
    result = function()
    return memory("VmHWM") - before, result


def memory(key):
    """Returns MB of the process: "VmRSS", resident memory, or "VmHWM", its peak. Linux only."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+) kB", status).group(1)) / 1024


def machine():
    """Returns a description of this machine."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "date": datetime.date.today().isoformat(),
        "cpus": len(affinity(0)) if affinity else os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        keras.backend.backend(): importlib.metadata.version(keras.backend.backend()),
    }


def write_json(path, **results):
    """Writes results, with the description of the machine."""
    with open(path, "w") as file:
        json.dump({"machine": machine(), **results}, file, indent=1)
