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
        x = keras.Input((5,), name="x")
        hint = keras.layers.Dense(width, "tanh", name="hint")(x)
        return keras.Model({"x": x}, keras.layers.Dense(1)(hint))

    random = np.random.default_rng(0)
    x, y = random.normal(size=(25, 5)).astype("float32"), random.integers(0, 2, (25, 1))
    data = tf.data.Dataset.from_tensor_slices(({"x": x}, y, x[:, 0] ** 2)).batch(8)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    data = data.with_options(options)  # the last batch has one example: a worker has none
    scope = (strategy or tf.distribute.get_strategy()).scope
    with scope():
        terms = [
            Term(losses.BinaryKLDivergence(2.0)),
            Term("mean_squared_error", student="hint", teacher="hint", projector="auto"),
        ]
        distiller = Distiller(model(4, 1), teacher=model(7, 2), terms=terms, alpha=0.6)
        metrics = [keras.metrics.BinaryAccuracy("accuracy", threshold=0.0),
                   keras.metrics.AUC(from_logits=True, name="auc")]  # fmt: skip
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        sgd = keras.optimizers.SGD(0.1, global_clipnorm=0.5)
        distiller.compile(sgd, loss, weighted_metrics=metrics)
    keras.utils.set_random_seed(3)
    logs = distiller.fit(data, epochs=2, verbose=0, validation_data=data).history
    measured = distiller.evaluate(data, verbose=0, return_dict=True)
    sums = [float(np.abs(weight).sum()) for weight in distiller.get_weights()]
    refused = strategy and refusal(distiller, data, scope)
    stock = strategy and of_keras(model(4, 1), data, scope)
    found = {"weights": sums, "logs": logs, "evaluated": measured}
    print(json.dumps({**found, "refused": refused, "stock": stock}))


def of_keras(model, data, scope):
    """What is said where Keras's own `fit` is called on workers."""
    with scope():
        model = keras.models.clone_model(model)
        model.compile("sgd", "mse")
    try:
        model.fit(data, verbose=0)
        return "trained"
    except Exception as error:  # of whatever kind
        return str(error)[:60]


def refusal(distiller, data, scope):
    """What is said of several steps an execution."""
    with scope():
        distiller.compile("sgd", "mse", steps_per_execution=2)
    try:
        return distiller.fit(data, verbose=0)
    except ValueError as error:
        return str(error)


if __name__ == "__main__":
    main([int(port) for port in sys.argv[2:]], int(sys.argv[1]))
