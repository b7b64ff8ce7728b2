"""Trains drawn distillations on one device and on two replicas; prints what differs, as JSON.

    python tests/abuse/replicas_child.py COUNT SEED

A process of its own: logical devices must be made before anything runs, and one process holds one
strategy.
"""

import dataclasses
import json
import pathlib
import random
import sys

TESTS = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "losses"), str(TESTS / "abuse")]

import numpy as np
import tensorflow as tf

CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(CPU, [tf.config.LogicalDeviceConfiguration()] * 2)

from contracts import UNLIKE, close
from drawing import network, published
from making import made

STRATEGY = tf.distribute.MirroredStrategy(
    ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
)


def drawn(draw):
    """A case without batch statistics, which each replica has of its own examples, or dropout."""
    while True:
        case = published(draw) if draw.randrange(6) == 0 else network(draw)
        if case.recipe not in UNLIKE:
            optimizer = "momentum" if case.optimizer == "adam" else case.optimizer
            return dataclasses.replace(case, mode="graph", parts=(), optimizer=optimizer,
                                       dtype="float32", batch=max(2, case.batch))  # fmt: skip


def trained(case):
    """The student's values after an epoch, whose last batch leaves a replica less than others."""
    parts = made(case)
    x, y, weight = parts.batch()
    parts.distiller().fit(x, y, sample_weight=weight, batch_size=case.batch, shuffle=False,
                          verbose=0)  # fmt: skip
    return parts.values()


def main(count, seed):
    draw, failed = random.Random(seed), []
    for number in range(count):
        case = drawn(draw)
        try:
            expected = trained(case)
            with STRATEGY.scope():
                found = trained(case)
            assert all(np.isfinite(value).all() for value in expected)
            close(found, expected, case.dtype)
        except Exception as error:
            failed.append(f"{case!r}: {type(error).__name__}: {str(error)[:1000]}")
        print(f"{number + 1} of {count}, {len(failed)} failed", file=sys.stderr, flush=True)
    print(json.dumps({"cases": count, "failed": failed}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
