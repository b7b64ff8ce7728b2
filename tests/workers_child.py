"""One of two workers that train together; prints its weights and logs, as JSON."""

import json
import sys

import keras
import numpy as np
import tensorflow as tf


def main(ports, index):
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(cluster), task_type="worker", task_id=index, rpc_layer="grpc"
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver) if len(ports) > 1 else None
    from keras_distill import Distiller, Term, losses

    def model(width, seed):
        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [
                keras.Input((5,)),
                keras.layers.Dense(width, "tanh", name="hint"),
                keras.layers.Dense(3),
            ]
        )

    random = np.random.default_rng(0)
    x, y = random.normal(size=(24, 5)).astype("float32"), random.integers(0, 3, 24)
    with (strategy or tf.distribute.get_strategy()).scope():
        terms = [
            Term(losses.KLDivergence(2.0)),
            Term("mean_squared_error", student="hint", teacher="hint", projector="auto"),
        ]
        student = model(4, 1)
        distiller = Distiller(student, teacher=model(7, 2), terms=terms, alpha=1.0)
        distiller.compile(keras.optimizers.SGD(0.1), loss=None, metrics=["accuracy"])
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        data = data.with_options(options)
        keras.utils.set_random_seed(3)
        logs = distiller.fit(data, epochs=2, verbose=0, validation_data=data).history
        measured = distiller.evaluate(data, verbose=0, return_dict=True)
    with (strategy or tf.distribute.get_strategy()).scope():
        distiller.compile("sgd", loss=None, steps_per_execution=2)
    try:
        distiller.fit(data, verbose=0)
        refused = ""
    except ValueError as error:
        refused = str(error)
    sums = [float(np.abs(weight).sum()) for weight in distiller.get_weights()]
    print(json.dumps({"weights": sums, "logs": logs, "evaluated": measured, "refused": refused}))


if __name__ == "__main__":
    main([int(port) for port in sys.argv[2:]], int(sys.argv[1]))
