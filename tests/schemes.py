"""Every scheme of training, small: functions that make a compiled distiller, its data, callbacks.

Batches of `BATCH`; the last holds one example, so that replicas behind the first have none.
"""

import functools
import tempfile

import keras
import numpy as np
import tensorflow as tf

from keras_distill import (
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
from keras_distill.callbacks import BalanceTerms
from keras_distill.data import read_targets, write_targets

FOLDER = tempfile.TemporaryDirectory()
BATCH = 8
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
TEXTS = np.array(["".join(chr(96 + letter) for letter in row if letter) for row in IDS])


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
    embedding.build()
    embedding.embeddings.assign(10 * embedding.embeddings)  # logits of some size
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
    distiller.compile(sgd(clipnorm=0.05), labels(), metrics=["accuracy"])
    return distiller, (X, Y, WEIGHT)


def cached():
    """Several steps in each execution."""
    distiller = Distiller(dense(4, 1), teacher=CachedTeacher())
    distiller.compile(sgd(), labels(), metrics=["accuracy"], steps_per_execution=2)
    return distiller, (X, Supervision(Y, {"output": LOGITS}), WEIGHT)


def ensemble():
    teacher = EnsembleTeacher([dense(7, 2), dense(6, 3)], weights=[1, 2])
    distiller = Distiller(dense(4, 1), teacher=teacher)
    distiller.compile(sgd(clipvalue=0.02), labels())
    return distiller, (X, Y)


def online():
    cohort = models.cohort(teacher=dense(7, 2), student=dense(4, 1))
    distiller = Distiller(cohort, terms=recipes.online(back=0.5), alpha=0.5)
    adamw = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    rates = models.scale_learning_rates(adamw, {cohort.teacher: 0.25})
    distiller.compile(rates, labels(), metrics=["accuracy"])
    return distiller, (X, Y, WEIGHT)


def balanced():
    """Weights of terms that a callback measures over the first batches."""
    distiller = pairs(terms=[Term(losses.KLDivergence(2.0), name="kl"),
                             Term("mse", **HINT, projector="auto")])  # fmt: skip
    distiller.compile(sgd(), labels())
    data = dataset_of((X, Y))
    return distiller, data, [BalanceTerms({"kl": 0.5, "hint": 0.2}, data=data, verbose=0)]


def moving_average():
    mean = EMATeacher(lambda step: 0.5 + 0.01 * keras.ops.cast(step, "float32"))
    distiller = Distiller(dense(4, 1), teacher=mean, terms=[Term("mse", name="mean")])
    distiller.compile(keras.optimizers.Adam(0.01), labels())
    return distiller, (X, Y)


@functools.cache
def targets_on_disk():
    """A dataset with the likeliest words of a teacher for each token, read from a cache."""
    data = tf.data.Dataset.from_tensor_slices((IDS, IDS[:, ::-1].copy(), SHORT)).batch(BATCH)
    write_targets(tokens(6, 2), data, FOLDER.name, top_k=3, temperature=2.0, verbose=0)
    return read_targets(data, FOLDER.name)


def cached_tokens():
    data = targets_on_disk()
    distiller = Distiller(tokens(4, 1), teacher=CachedTeacher())
    distiller.compile(sgd(), labels(reduction="mean_with_sample_weight"))
    return distiller, data


def dataset_of(data):
    """Batches of what a scheme has returned."""
    if isinstance(data, tf.data.Dataset):
        return data
    return tf.data.Dataset.from_tensor_slices(data).batch(BATCH)


def masked_tokens():
    terms = [Term(losses.KLDivergence(2.0)), Term("mse", **HINT, projector="auto")]
    distiller = Distiller(tokens(4, 1), teacher=tokens(6, 2), terms=terms)
    distiller.compile(sgd(), labels(), weighted_metrics=["accuracy"])
    return distiller, (IDS, IDS[:, ::-1].copy(), WEIGHT[:, None] * SHORT)


def self_taught():
    """An exit that learns from the output, a feature that learns from a later one."""
    keras.utils.set_random_seed(1)
    x = keras.Input((5,))
    hidden = keras.layers.Dense(4, "tanh", name="early")(x)
    later = keras.layers.Dense(6, "tanh", name="late")(hidden)
    net = keras.Model(x, keras.layers.Dense(CLASSES)(later))
    net = models.add_exits(net, {"exit": "early"}, head=keras.layers.Dense(CLASSES))
    hint = Term("mse", student="early", teacher="late", source="self", projector="auto",
                name="hint")  # fmt: skip
    distiller = Distiller(net, terms=[*recipes.byot(net, hint=0), hint])
    distiller.compile(sgd(), labels(), metrics=["accuracy"])
    return distiller, (X, Y, WEIGHT)


class Letters(keras.layers.Layer):
    """Numbers the letters of words, up to so many."""

    def __init__(self, length, **arguments):
        super().__init__(**arguments)
        self.length, self.tokenizer = length, Alphabet()

    def get_config(self):
        return {"length": self.length}

    def call(self, texts):
        ids = tf.strings.unicode_decode(texts, "UTF-8") - 96
        return ids.to_tensor(shape=(None, self.length))


class Alphabet:
    def get_config(self):
        return {}

    def get_vocabulary(self):
        return ["", *"abcdefghij"]

    def vocabulary_size(self):
        return WORDS


class Reader(keras.Model):
    """A model that reads text, as tasks of KerasHub do."""

    preprocessor = None

    def preprocess_samples(self, x, y=None, sample_weight=None):
        return keras.utils.pack_x_y_sample_weight(self.preprocessor(x), y, sample_weight)


def reader(width, seed, length):
    keras.utils.set_random_seed(seed)
    ids = keras.Input((length,), dtype="int32")
    words = keras.layers.Embedding(WORDS, width, mask_zero=True)(ids)
    mean = keras.layers.GlobalAveragePooling1D()(words)
    model = Reader(ids, keras.layers.Dense(CLASSES)(mean))
    model.preprocessor = Letters(length)
    return model


def raw_text():
    """Strings, which student and teacher read each in its own way."""
    distiller = Distiller(reader(4, 1, TOKENS), teacher=reader(6, 2, TOKENS - 2))
    distiller.compile(sgd(), labels(), metrics=["accuracy"])
    return distiller, (TEXTS, Y, WEIGHT)


def fused_head():
    distiller = Distiller(language_model(4, 1), teacher=language_model(6, 2), fused_head=True)
    loss = labels(reduction="mean_with_sample_weight")
    distiller.compile(sgd(), loss, weighted_metrics=["accuracy"])
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


def scaled():
    """Loss scaling, whose first steps overflow on the replica that has the large example."""
    x = X.copy()
    x[7] *= 1e4
    optimizer = keras.optimizers.LossScaleOptimizer(sgd(global_clipnorm=0.1), initial_scale=1e36)
    distiller = pairs(terms=[Term(losses.KLDivergence(2.0)), Term("mse", **HINT, projector="auto")])
    distiller.compile(optimizer, labels())
    return distiller, (x, Y)


def half_precision():
    """float16 with the loss scaling that Keras's `compile` brings."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        distiller = pairs(terms=[Term(losses.KLDivergence(2.0)), Term("mse", **HINT,
                                                                      projector="auto")])
    finally:
        keras.config.set_dtype_policy("float32")
    distiller.compile(sgd(), labels())
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
    for each in (offline, cached, cached_tokens, ensemble, online, self_taught, balanced,
                 moving_average, masked_tokens, raw_text, fused_head, several_outputs, scaled,
                 half_precision, judged)
}  # fmt: skip
