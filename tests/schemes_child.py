"""Trains every scheme on one device and on so many replicas; prints what differs, as JSON.

A process of its own: logical devices must be made before anything runs, and one process holds one
strategy. Batches of 8; the last holds one example, so that other replicas have none.
"""

import contextlib
import json
import sys

import keras
import numpy as np
import tensorflow as tf

REPLICAS = int(sys.argv[1])
CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(CPU, [tf.config.LogicalDeviceConfiguration()] * REPLICAS)

from keras_distill import (  # noqa: E402
    CachedTeacher,
    Distiller,
    EMATeacher,
    EnsembleTeacher,
    Supervision,
    Term,
    losses,
    models,
    recipes,
)

STRATEGY = tf.distribute.MirroredStrategy(
    [f"CPU:{number}" for number in range(REPLICAS)],
    cross_device_ops=tf.distribute.ReductionToOneDevice(),
)
CLASSES, WORDS, TOKENS, ROWS = 3, 11, 5, 33  # 5 steps an epoch, 4 epochs
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 5)).astype("float32")
Y = RNG.integers(0, CLASSES, ROWS)
WEIGHT = RNG.uniform(0.1, 3, ROWS).astype("float32")
LOGITS = RNG.normal(size=(ROWS, CLASSES)).astype("float32")
IDS = RNG.integers(1, WORDS, (ROWS, TOKENS))
LENGTHS = RNG.integers(1, TOKENS + 1, (ROWS, 1))
IDS[np.arange(TOKENS) >= LENGTHS] = 0  # padding, of unequal length on the replicas
SHORT = (IDS > 0).astype("float32")


def dense(width, seed, outputs=CLASSES):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(width, "tanh", name="hint"),
                             keras.layers.Dense(outputs)])  # fmt: skip


def tokens(width, seed):
    """A model of words with a mask of its own, whose embeddings have sparse gradients."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((TOKENS,), dtype="int32"),
                             keras.layers.Embedding(WORDS, width, mask_zero=True),
                             keras.layers.Dense(width, "tanh", name="hint"),
                             keras.layers.Dense(WORDS)])  # fmt: skip


def language_model(width, seed):
    keras.utils.set_random_seed(seed)
    ids = keras.Input((TOKENS,), dtype="int32")
    embedding = keras.layers.ReversibleEmbedding(WORDS, width)
    hidden = keras.layers.Dense(width, "tanh")(embedding(ids))
    return keras.Model(ids, embedding(hidden, reverse=True))


def labels(**arguments):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **arguments)


def sgd(**arguments):
    return keras.optimizers.SGD(0.1, momentum=0.5, **arguments)


HINT = {"student": "hint", "teacher": "hint", "name": "hint"}


def pairs(**arguments):
    return Distiller(dense(4, 1), teacher=dense(7, 2), **arguments)


def offline():
    terms = [Term(losses.KLDivergence(2.0)), Term(losses.RelationalDistance(), **HINT),
             Term("mse", student="hint", teacher="hint", projector="auto", name="projected")]
    distiller = pairs(terms=terms)
    distiller.compile(sgd(), labels(), metrics=["accuracy"])
    return distiller, (X, Y, WEIGHT)


def cached():
    distiller = Distiller(dense(4, 1), teacher=CachedTeacher())
    distiller.compile(sgd(), labels(), metrics=["accuracy"])
    return distiller, (X, Supervision(Y, {"output": LOGITS}), WEIGHT)


def ensemble():
    teacher = EnsembleTeacher([dense(7, 2), dense(6, 3)], weights=[1, 2])
    distiller = Distiller(dense(4, 1), teacher=teacher)
    distiller.compile(sgd(), labels())
    return distiller, (X, Y)


def online():
    cohort = models.cohort(teacher=dense(7, 2), student=dense(4, 1))
    distiller = Distiller(cohort, terms=recipes.online(back=0.5), alpha=0.5)
    distiller.compile(sgd(), labels(), metrics=["accuracy"])
    return distiller, (X, Y, WEIGHT)


def moving_average():
    distiller = Distiller(dense(4, 1), teacher=EMATeacher(0.9), terms=[Term("mse", name="mean")])
    distiller.compile(keras.optimizers.Adam(0.01), labels())
    return distiller, (X, Y)


def masked_tokens():
    terms = [Term(losses.KLDivergence(2.0)), Term("mse", **HINT, projector="auto")]
    distiller = Distiller(tokens(4, 1), teacher=tokens(6, 2), terms=terms)
    distiller.compile(sgd(), labels(), weighted_metrics=["accuracy"])
    return distiller, (IDS, IDS[:, ::-1].copy(), WEIGHT[:, None] * SHORT)


def fused_head():
    distiller = Distiller(language_model(4, 1), teacher=language_model(6, 2), fused_head=True)
    distiller.compile(sgd(), labels(reduction="mean_with_sample_weight"))
    return distiller, (IDS, IDS[:, ::-1].copy(), SHORT)


def several_outputs():
    """Two outputs, each with a loss, weights and a metric of its own."""

    def both(width, seed):
        keras.utils.set_random_seed(seed)
        x = keras.Input((5,))
        hidden = keras.layers.Dense(width, "tanh", name="hint")(x)
        return keras.Model(x, {"a": keras.layers.Dense(CLASSES, name="a")(hidden),
                               "b": keras.layers.Dense(1, name="b")(hidden)})  # fmt: skip

    terms = [Term(losses.KLDivergence(2.0), student="output:a", teacher="output:a", name="kl")]
    distiller = Distiller(both(4, 1), teacher=both(7, 2), terms=terms, alpha=0.3)
    parts = {"a": labels(reduction="mean_with_sample_weight"),
             "b": keras.losses.MeanSquaredError(reduction="sum")}  # fmt: skip
    distiller.compile(sgd(), parts, loss_weights={"a": 1.0, "b": 0.05},
                      metrics={"a": ["accuracy"], "b": ["mae"]})  # fmt: skip
    return distiller, (X, {"a": Y, "b": X[:, :1]}, {"a": WEIGHT, "b": WEIGHT[::-1].copy()})


def clipping(optimizer):
    distiller = pairs()
    distiller.compile(optimizer, labels())
    return distiller, (X, Y, WEIGHT)


def scaled():
    """Loss scaling, whose first steps overflow on the replica that has the large example."""
    x = X.copy()
    x[7] *= 1e4
    optimizer = keras.optimizers.LossScaleOptimizer(sgd(global_clipnorm=0.1), initial_scale=1e36)
    distiller = pairs(terms=[Term(losses.KLDivergence(2.0)), Term("mse", **HINT, projector="auto")])
    distiller.compile(optimizer, labels())
    return distiller, (x, Y)


def several_steps():
    distiller = pairs()
    distiller.compile(sgd(), labels(), metrics=["accuracy"], steps_per_execution=2)
    return distiller, (X, Y, WEIGHT)


def judged():
    """Metrics that are no means of what replicas have."""
    student, teacher = (dense(width, seed, outputs=1) for width, seed in ((4, 1), (7, 2)))
    distiller = Distiller(student, teacher=teacher)
    metrics = [keras.metrics.BinaryAccuracy("accuracy", threshold=0.0),
               keras.metrics.AUC(from_logits=True, name="auc"),
               keras.metrics.F1Score(threshold=0.5, name="f1"),
               keras.metrics.RootMeanSquaredError(name="rmse")]  # fmt: skip
    distiller.compile(sgd(), keras.losses.BinaryCrossentropy(from_logits=True), metrics=metrics)
    return distiller, (X, (Y[:, None] > 0).astype("float32"))


CASES = {
    each.__name__: each
    for each in (offline, cached, ensemble, online, moving_average, masked_tokens, fused_head,
                 several_outputs, scaled, several_steps, judged)
}  # fmt: skip
CASES |= {
    "clipnorm": lambda: clipping(sgd(clipnorm=0.05)),
    "global_clipnorm": lambda: clipping(sgd(global_clipnorm=0.1)),
    "clipvalue": lambda: clipping(sgd(clipvalue=0.02)),
}


def trained(strategy, make):
    """`(weights, logs)` after 20 steps, what `evaluate` measures among the logs."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        distiller, data = make()
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(8)
    logs = distiller.fit(dataset, epochs=4, verbose=0, validation_data=dataset).history
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
