"""`train` on two workers: one experiment's file, one folder, one writer."""

import json
import socket

import children
import keras
import numpy as np

FILE = """
import keras, numpy as np, tensorflow as tf
from keras_distill import Experiment

def model(width):
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(width, "relu"), keras.layers.Dense(3)])

def data(split):
    x = np.random.default_rng(0).normal(size=(24, 4)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, x[:, :3].argmax(-1))).batch(8)

def experiment(seeds=1):
    return Experiment("tiny", student=lambda: model(2), teacher=lambda: model(8), data=data,
        optimizer=keras.optimizers.Adam, epochs=1, seeds=seeds,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
"""


def worker(index, ports, arguments):
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
    return children.start("-m", "keras_distill", "train", "--strategy=multi_worker", *arguments,
                          TF_CONFIG=json.dumps(config))  # fmt: skip


def test_two_workers_make_one_run(tmp_path):
    file = tmp_path / "tiny.py"
    file.write_text(FILE)
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    arguments = [f"--experiment={file}", f"--out={tmp_path / 'run'}"]
    workers = [worker(index, ports, arguments) for index in range(2)]
    said = ["".join(each.communicate(timeout=600)) for each in workers]
    assert [each.returncode for each in workers] == [0, 0], said[0][-3000:] + said[1][-3000:]
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert {*report["arms"]} == {"teacher", "alone", "distilled"}
    assert "The report" in said[0] and "The report" not in said[1]
    student = keras.saving.load_model(tmp_path / "run/student.keras")
    assert np.isfinite(student.predict(np.ones((1, 4)), verbose=0)).all()
