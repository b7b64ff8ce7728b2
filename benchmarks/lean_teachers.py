"""Times a frozen teacher's forward pass by precision, with and without XLA, relative to float32.

How it is measured:

- `ModelTeacher(model, dtype=..., jit_compile=...)` answers for one batch inside a `tf.function`, as
  in a train step. *images* is a CNN of six convolutions with batch size 64. *tokens* is a BERT of 4
  layers, 256 wide, with 16 sentences of 64 tokens. Weights are random. The head is scaled until the
  logits' standard deviation is 5, since otherwise every distribution would be flat and every
  divergence small.
- Each round runs every arm, in turn forwards and backwards, a few batches at a time. A ratio to
  float32 in the graph is taken within a round. Reported are the median and the quartiles over
  rounds. CPU time is that of the process, with all threads.
- KL is the divergence of the softmax at temperature 1 from that of float32, a mean over the batch.
  "first" is the CPU time of the first call, which traces and, with XLA, compiles.
- "1 of 4 blocks": a term needs only the first block, in the graph and in eager mode.

    python benchmarks/lean_teachers.py [--quick] [--rounds=N] [--json=FILE]
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from measuring import machine, now, write_json

from keras_distill import ModelTeacher
from keras_distill.batch import Batch
from keras_distill.teachers import precision

GOAL = 0.65  # the ratio to float32's CPU time, in bfloat16
PRECISIONS = (None, "mixed_bfloat16", "float16", "int8")


def images():
    """Returns a CNN in which only the head has a layer for int8, and its batch."""
    inputs = x = keras.Input((28, 28, 1))
    for width in (32, 64, 128):
        for number in range(2):
            name = f"block_{width}_{number}"
            x = layers.Conv2D(width, 3, padding="same", activation="relu", name=name)(x)
        x = layers.MaxPooling2D(padding="same")(x)
    x = layers.Dense(10, name="head")(layers.GlobalAveragePooling2D()(x))
    data = np.random.default_rng(0).normal(size=(64, 28, 28, 1)).astype("float32")
    return keras.Model(inputs, x), tf.constant(data), "block_32_1"


def tokens():
    """Returns a BERT, and its batch."""
    from keras_hub.models import BertBackbone

    backbone = BertBackbone(
        vocabulary_size=1000, num_layers=4, num_heads=4, hidden_dim=256, intermediate_dim=1024,
        max_sequence_length=64, dropout=0.1,
    )  # fmt: skip
    logits = layers.Dense(10, name="head")(backbone(backbone.input)["pooled_output"])
    ids = np.random.default_rng(0).integers(1, 1000, (16, 64))
    data = {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)}
    data = {key: tf.constant(value, tf.int32) for key, value in data.items()}
    model = keras.Model(backbone.input, logits)
    return model, data, f"{backbone.name}/transformer_layer_0"


def confident(model, x):
    """Scales the head until the logits' standard deviation is 5."""
    head = model.get_layer("head")
    head.kernel.assign(head.kernel * (5 / np.std(model(x))))


def arms(model, x, block):
    """Returns `{arm: function}`, each of which answers once, and `{arm: divergence}`."""
    made, divergences, batch = {}, {}, Batch(x, None, None, None)
    for dtype in PRECISIONS:
        for jit in (False, True):
            teacher = ModelTeacher(model, dtype=dtype, jit_compile=jit)
            name = f"{dtype or 'float32'}{', XLA' if jit else ''}"
            made[name] = answer(teacher, batch, ["output"])
            found = teacher.targets(batch, {}, ["output"])
            expected = {"output": model(x, training=False)}
            divergences[name] = precision.errors(expected, found)["output"][1]
    teacher = ModelTeacher(model)
    made["float32, eager"] = lambda: teacher.targets(batch, {}, ["output"])
    made["float32, 1 of 4 blocks"] = answer(teacher, batch, [block])
    made["float32, 1 of 4 blocks, eager"] = lambda: teacher.targets(batch, {}, [block])
    return made, divergences


def answer(teacher, batch, paths):
    """Returns a function that runs a teacher in a graph."""
    run = tf.function(lambda x: teacher.targets(batch._replace(x=x), {}, paths))
    return lambda: run(batch.x)


def first_call(function):
    """Returns the CPU seconds of tracing and compiling."""
    started = time.process_time()
    function()
    return time.process_time() - started


def measure(made, rounds, calls=3):
    """Returns `{arm: [(CPU, wall)]}`, with a pair for each round."""
    taken = {arm: [] for arm in made}
    for number in range(rounds):
        for arm in list(made) if number % 2 else reversed(made):
            started = now()
            for _ in range(calls):
                made[arm]()
            taken[arm].append((now() - started) / calls)
    return taken


def row(workload, arm, taken, first, divergence):
    """Returns the medians of an arm."""
    base = taken["float32"]
    ratios = [[t[i] / b[i] for t, b in zip(taken[arm], base)] for i in (0, 1)]
    return {
        "workload": workload,
        "arm": arm,
        "cpu_ms": 1000 * statistics.median(t[0] for t in taken[arm]),
        "cpu_ratio": statistics.quantiles(ratios[0], n=4),
        "wall_ratio": statistics.median(ratios[1]),
        "kl": divergence,
        "first_cpu_seconds": first,
    }


def shown(row):
    """Returns a row of the table."""
    low, middle, high = row["cpu_ratio"]
    divergence = "" if row["kl"] is None else f"{row['kl']:.1e}"
    return (
        f"| {row['workload']} | {row['arm']} | {row['cpu_ms']:.1f} | {middle:.2f} "
        f"({low:.2f}-{high:.2f}) | {row['wall_ratio']:.2f} | {divergence} "
        f"| {row['first_cpu_seconds']:.1f} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--rounds", type=int, default=25, help="how many rounds to measure")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to this file")
    arguments = parser.parse_args()
    flags = sorted(flag for flag in precision.cpu_flags() if "512_" in flag or "amx" in flag)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    print(f"CPU flags: {' '.join(flags) or 'none of avx512_*, amx_*'}\n")
    print("| workload | arm | CPU ms | CPU over float32 (quartiles) | wall | KL | first CPU s |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for workload in (images, tokens):
        keras.utils.set_random_seed(0)
        model, x, block = workload()
        confident(model, x)
        made, divergences = arms(model, x, block)
        first = {arm: first_call(function) for arm, function in made.items()}
        taken = measure(made, 5 if arguments.quick else arguments.rounds)
        for arm in made:
            rows.append(row(workload.__name__, arm, taken, first[arm], divergences.get(arm)))
            print(shown(rows[-1]), flush=True)
    if arguments.json:
        write_json(arguments.json, flags=flags, goal=GOAL, rows=rows)


if __name__ == "__main__":
    main()
