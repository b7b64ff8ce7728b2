"""Times a model in its own runtime: `python cost_program.py RUNTIMES FORMAT MODEL ...`.

This is a program, not a module of the package. It runs in a process of its own, as on the machine
for which the model is made. `RUNTIMES` is the program that loads exported models. The format
`keras` is a `.keras` file; only the memory of its compiled function is measured. `INPUTS` is an
`.npz` file with an array for each input. `OUTPUTS` becomes one with an array for each output,
and their names. `COSTS` becomes a JSON file.
"""

import importlib.util
import json
import os
import sys
import time

if __name__ == "__main__":  # no file in this folder may hide a package
    sys.path[:] = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]
    if sys.argv[2] != "keras":
        sys.modules["keras"] = sys.modules["keras_distill"] = None

import numpy as np

BATCHES = (1, 32)
WARM_UP = 5
LIBRARIES = {"serving": "tensorflow", "litert": "ai_edge_litert.interpreter", "onnx": "onnxruntime",
             "openvino": "openvino"}  # fmt: skip
SECONDS = 20  # the maximum time for one batch size, however slow the model is


def loaded(runtimes, kind, path):
    """Loads the model in its runtime."""
    spec = importlib.util.spec_from_file_location("runtimes", runtimes)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.RUNTIMES[kind](path)


def timed(model, given, batch, runs):
    """Returns the seconds of each run of the first `batch` examples, repeated if too few."""
    rows = np.arange(batch) % len(next(iter(given.values())))
    fed = model.feed({name: value[rows] for name, value in given.items()})
    found, end = [], time.perf_counter() + SECONDS
    while len(found) < WARM_UP + runs:
        start = time.perf_counter()
        model.run(fed)
        found.append(time.perf_counter() - start)
        if found[WARM_UP:] and time.perf_counter() > end:
            break
    return found[WARM_UP:]


def memory(name):
    """Returns this process's memory in bytes, or `None` if the system does not tell.

    Linux's `getrusage` is of no use: a process inherits its number from its parent.

    Args:
        name: `"VmHWM"` for the peak, `"VmRSS"` for the present memory.
    """
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            lines = dict(line.split(":", 1) for line in file)
    except OSError:
        return None
    return 1024 * int(lines[name].split()[0]) if name in lines else None


def baseline():
    """Returns the process's memory before the model is loaded, and resets its peak if possible."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
            file.write("5")
    except OSError:
        pass
    return memory("VmRSS")


def above(before):
    """Returns the peak memory of this process in bytes, less the memory before."""
    peak = memory("VmHWM")
    return None if None in (peak, before) else max(peak - before, 0)


def keras_memory(path, inputs, costs):
    """Measures the memory of a Keras model for batches of one and of 32 examples."""
    import keras
    import tensorflow as tf

    with np.load(inputs) as given:
        given = dict(given)
    described = json.loads(str(given.pop("described")))
    for name in described["modules"]:  # these modules register the model's classes
        importlib.import_module(name)
    arrays = [given[f"arr_{index}"] for index in range(len(given))]
    before = baseline()
    model = keras.saving.load_model(path, compile=False)
    for batch in BATCHES:
        rows = [each[np.arange(batch) % len(each)] for each in arrays]
        rows = dict(zip(described["names"], rows)) if described["names"] else rows
        rows = rows if described["several"] else rows[0]
        call = tf.function(lambda x: model(x, training=False), autograph=False)
        call(keras.tree.map_structure(tf.convert_to_tensor, rows))
    with open(costs, "w", encoding="utf-8") as file:
        json.dump({"peak_bytes": above(before)}, file)


def main(runtimes, kind, path, inputs, outputs, costs, runs):
    """Measures, then answers all inputs, 32 at a time."""
    with np.load(inputs) as given:
        given = dict(given)
    importlib.import_module(LIBRARIES[kind])
    before = baseline()
    model = loaded(runtimes, kind, path)
    batches = [batch for batch in BATCHES if model.batch in (batch, -1, 0)] or [model.batch]
    seconds = {batch: timed(model, given, batch, int(runs)) for batch in batches}
    found = {"batch": max(model.batch, 0), "seconds": seconds, "peak_bytes": above(before)}
    count = len(next(iter(given.values())))
    parts = [model({name: value[start : start + 32] for name, value in given.items()})
             for start in range(0, count, 32)]  # fmt: skip
    arrays = [np.concatenate([part[name] for part in parts]) for name in parts[0]]
    np.savez(outputs, *arrays, names=json.dumps([*parts[0]]))  # a name may be an argument's
    with open(costs, "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    if sys.argv[2] == "keras":
        keras_memory(*sys.argv[3:])
    else:
        main(*sys.argv[1:])
