"""Trains a fused head on one device and on two replicas; prints how far the weights are apart.

A process of its own: logical devices must be made before anything runs.
"""

import contextlib

import keras
import numpy as np
import tensorflow as tf

CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(CPU, [tf.config.LogicalDeviceConfiguration()] * 2)

from keras_distill import Distiller  # noqa: E402

WORDS, TOKENS = 23, 5


def language_model(seed, width):
    keras.utils.set_random_seed(seed)
    ids = keras.Input((TOKENS,), dtype="int32")
    embedding = keras.layers.ReversibleEmbedding(WORDS, width)
    embedding.build()
    embedding.embeddings.assign(20 * embedding.embeddings)  # logits of some size
    hidden = keras.layers.Dense(width, "tanh")(embedding(ids))
    return keras.Model(ids, embedding(hidden, reverse=True))


def trained(strategy):
    rng = np.random.default_rng(0)
    ids, labels = rng.integers(0, WORDS, (2, 8, TOKENS))
    weights = (rng.random((8, TOKENS)) < 0.5).astype("float32")  # uneven between replicas
    with strategy.scope() if strategy else contextlib.nullcontext():
        student = language_model(0, 4)
        before = student.get_weights()
        distiller = Distiller(student, teacher=language_model(1, 6), alpha=1.0, fused_head=True)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.5), loss, weighted_metrics=["accuracy"])
    data = tf.data.Dataset.from_tensors((ids, labels, weights)).unbatch().batch(8)
    logs = distiller.fit(data, epochs=2, verbose=0).history
    moved = min(float(np.abs(a - b).max()) for a, b in zip(before, student.get_weights()))
    if moved < 1e-3:
        raise RuntimeError(f"A weight is not trained: {moved}")
    return student.get_weights(), logs["kl_divergence"], logs["accuracy"]


STRATEGY = tf.distribute.MirroredStrategy(
    ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
)
one, two = (keras.tree.flatten(trained(strategy)) for strategy in (None, STRATEGY))
print(max(float(np.abs(a - b).max()) for a, b in zip(one, two, strict=True)))
