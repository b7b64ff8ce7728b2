"""Trains on several workers. Each worker is a process and gets a part of every batch.

    python examples/multi_worker.py --workers=2

This command starts two processes on this machine, which communicate over the loopback interface. It
prints the name of the worker before each line of its output. On real machines, start this file once
on each machine without `--workers`. Set the environment variable TF_CONFIG as TensorFlow describes:

    {"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}

`--out` must be a folder that all workers see. The first worker writes it, and the others read it.
If a worker dies, the others end within a minute. Start all of them again to resume the training.
`batch` is the size of the global batch for any number of workers, so the trained weights are those
of one worker. Two workers on two cores take about half a minute.
"""

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

GRACE = 60  # seconds in which the other workers may end by themselves


def parsed():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, help="start this many processes on this machine")
    parser.add_argument("--out", default="runs/multi_worker", help="a folder that all workers see")
    parser.add_argument("--epochs", type=int, default=4, help="the epochs")
    given = parser.parse_args()
    if given.workers is not None and given.workers < 1:
        parser.error("--workers must be at least 1")
    return given


def launch(count):
    """Runs this file in `count` processes and returns 0 if all of them succeed."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(count)]}
    arguments = [each for each in sys.argv[1:] if not each.startswith("--workers")]
    workers = []
    for index in range(count):
        config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        workers.append(subprocess.Popen(
            [sys.executable, "-u", __file__, *arguments], text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env={**os.environ, "TF_CONFIG": json.dumps(config)},
        ))  # fmt: skip
        print(f"[worker {index}] process {workers[-1].pid}", flush=True)
    shown = [threading.Thread(target=show, args=pair) for pair in enumerate(workers)]
    for thread in shown:
        thread.start()
    codes = ended(workers)
    for thread in shown:
        thread.join()
    return max(abs(code) for code in codes)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def show(index, worker):
    for line in worker.stdout:
        print(f"[worker {index}] {line}", end="", flush=True)


def ended(workers):
    """Returns the exit codes of all workers.

    If one worker fails, the others get `GRACE` seconds to end. Then they are killed.
    """
    limit = None
    while any(worker.poll() is None for worker in workers):
        if limit is None and any(worker.poll() for worker in workers):
            limit = time.monotonic() + GRACE
        if limit is not None and time.monotonic() > limit:
            for worker in workers:
                worker.kill()
        time.sleep(0.2)
    return [worker.returncode for worker in workers]


def work(given):
    """Trains as one worker. Without TF_CONFIG it is the only one."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    several = "TF_CONFIG" in os.environ  # the strategy comes first, since it opens the connections
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if several else None
    strategy = strategy or tf.distribute.get_strategy()
    import keras

    from keras_distill import Distiller, Term, losses
    from keras_distill.callbacks import Resume, StudentCheckpoint

    keras.utils.set_random_seed(0)
    out = pathlib.Path(given.out)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    train, valid = datasets(batch=64)
    with strategy.scope():
        teacher, student = network(128, "teacher"), network(8, "student")
        alone = Distiller(teacher, alpha=0)  # trains a model on labels alone
        alone.compile("adam", loss, metrics=["accuracy"])
        terms = [
            Term(losses.KLDivergence(2.0)),
            Term("mse", student="hint", teacher="hint", projector="auto", weight=0.1),
        ]
        distiller = Distiller(student, teacher=teacher, terms=terms)
        distiller.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    alone.fit(train, epochs=given.epochs, verbose=0, callbacks=[Resume(out / "teacher")])
    best = StudentCheckpoint(out / "student.keras", monitor="val_accuracy")  # worker 0 writes
    callbacks = [Resume(out / "resumed", every=10), best]
    distiller.fit(train, epochs=given.epochs, validation_data=valid, verbose=2, callbacks=callbacks)
    for name, model in (("teacher", alone), ("student", distiller)):
        found = model.evaluate(valid, verbose=0, return_dict=True)
        print(f"{name}: accuracy {100 * found['accuracy']:.2f}%", flush=True)
    weights = sum(float(abs(weight).sum()) for weight in distiller.get_weights())
    print(f"The student's weights sum to {weights:.6f}.", flush=True)


def network(width, name):
    import keras

    image = keras.Input((64,), name="image")
    hint = keras.layers.Dense(width, "relu", name="hint")(image)
    return keras.Model({"image": image}, keras.layers.Dense(10)(hint), name=name)


def datasets(batch):
    """Returns handwritten digits in global batches. Each worker gets its part of every batch."""
    import tensorflow as tf
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.data / 16).astype("float32")
    found = []
    for rows in (slice(0, 1_400), slice(1_400, None)):
        dataset = tf.data.Dataset.from_tensor_slices(({"image": pixels[rows]}, digits.target[rows]))
        dataset = dataset.shuffle(1_400, seed=0) if not rows.start else dataset
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        found.append(dataset.batch(batch).with_options(options))
    return found


if __name__ == "__main__":
    given = parsed()
    if given.workers is not None:
        sys.exit(launch(given.workers))
    work(given)
