"""Trains every scheme on one device and on so many replicas; prints what differs, as JSON.

A process of its own: logical devices must be made before anything runs, and one process holds one
strategy.
"""

import contextlib
import json
import sys

import numpy as np
import tensorflow as tf

REPLICAS = int(sys.argv[1])
CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(CPU, [tf.config.LogicalDeviceConfiguration()] * REPLICAS)
# Each graph runs a few times: to make it faster takes longer.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

from schemes import CASES, dataset_of  # noqa: E402
from whole import WHOLE  # noqa: E402

STRATEGY = tf.distribute.MirroredStrategy(
    [f"CPU:{number}" for number in range(REPLICAS)],
    cross_device_ops=tf.distribute.ReductionToOneDevice(),
)


def trained(strategy, make):
    """`(weights, logs)` after 20 steps, or 10; what `evaluate` measures among the logs."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        distiller, data, *callbacks = make()
    dataset = dataset_of(data)
    logs = distiller.fit(dataset, epochs=4 if WHOLE else 2, verbose=0, validation_data=dataset,
                         callbacks=sum(callbacks, [])).history  # fmt: skip
    measured = distiller.evaluate(dataset, verbose=0, return_dict=True)
    logs |= {f"evaluated {name}": value for name, value in measured.items()}
    state = [*distiller.trainable_variables, *(v for t in distiller.teachers.values()
             for layer in t.state for v in layer.variables)]  # fmt: skip
    return {f"{i} {v.path}": np.array(v) for i, v in enumerate(state)}, logs


def compared(make):
    (one, logs), (many, others) = (trained(strategy, make) for strategy in (None, STRATEGY))
    return {
        "weights": {name: apart(value, other)
                    for (name, value), other in zip(one.items(), many.values(), strict=True)},
        "logs": {name: apart(value, others[name]) for name, value in logs.items()},
        "names": [sorted(logs), sorted(others)],
    }  # fmt: skip


def apart(one, other):
    """How far arrays are apart; infinity where one is not finite."""
    found = np.max(np.abs(np.subtract(one, other)) / np.maximum(1, np.abs(one)))
    return float(found) if np.isfinite(found) else 1e30


if __name__ == "__main__":
    chosen = sys.argv[2:] or CASES
    for name in chosen:  # a line each, so that a failure is not the end of the others' numbers
        print(json.dumps({name: compared(CASES[name])}), flush=True)
