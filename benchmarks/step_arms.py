"""The arms of the step benchmark: models, trainers and workloads."""

import dataclasses
import functools
import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from measuring import now, timed

from keras_distill import CachedTeacher, Distiller, Supervision, Term
from keras_distill.losses import AttentionTransfer, KLDivergence, SimilarityPreserving

T = 2.0
ALPHA = 0.5
CROSS_ENTROPY = functools.partial(keras.losses.SparseCategoricalCrossentropy, from_logits=True)

# Workloads: a teacher and a student, and the layers to compare: (student's, teacher's).


def cnn(widths, convs, narrow=None):
    """Returns blocks of 3x3 convolutions; a 1x1 convolution widens the `narrow` ones."""
    inputs = x = keras.Input((28, 28, 1))
    for i, width in enumerate(widths):
        for _ in range(convs):
            x = layers.Conv2D(narrow[i] if narrow else width, 3, padding="same", activation="relu")(
                x
            )
        x = layers.MaxPooling2D(padding="same", name=f"narrow{i}" if narrow else f"block{i}")(x)
        if narrow:
            x = layers.Conv2D(width, 1, activation="relu", name=f"block{i}")(x)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def transformer(blocks, width, heads=4, length=64, words=5_000, hidden=512):
    """Returns a BERT-like classifier of token ids."""
    inputs = keras.Input((length,), dtype="int32")
    x = layers.Embedding(words, width)(inputs) + layers.Embedding(length, width)(np.arange(length))
    x = layers.LayerNormalization()(x)
    for i in range(blocks):
        attended = layers.MultiHeadAttention(heads, width // heads)(x, x)
        x = layers.LayerNormalization()(x + attended)
        inner = layers.Dense(hidden, activation="gelu", name=f"inner{i}")(x)
        x = layers.LayerNormalization(name=f"block{i}")(x + layers.Dense(width)(inner))
    pooled = layers.Dense(128, activation="tanh", name="pooler")(x[:, 0])
    return keras.Model(inputs, layers.Dense(10)(pooled))


TEACHER = functools.partial(cnn, (16, 32, 64), 2)
STUDENT = functools.partial(cnn, (16, 32, 64), 1, narrow=(8, 16, 32))
SMALL_TEACHER = functools.partial(cnn, (10, 20, 40), 2)
SMALL_STUDENT = functools.partial(cnn, (10, 20, 40), 1, narrow=(5, 10, 20))
BERT_TEACHER = functools.partial(transformer, 4, 256)
BERT_STUDENT = functools.partial(transformer, 2, 128)
CNN_EQUAL = [(f"block{i}", f"block{i}") for i in (2, 1, 0)]
CNN_PROJECTED = [(f"narrow{i}", f"block{i}") for i in (2, 1, 0)]
BERT_EQUAL = [("pooler", "pooler"), ("inner1", "inner3"), ("inner0", "inner1")]
BERT_PROJECTED = [("block1", "block3"), ("block0", "block1")]
MAPS = [("block1", "block1")]


@dataclasses.dataclass(frozen=True)
class Workload:
    teacher: callable
    student: callable
    equal: list  # pairs of layers whose outputs have one shape
    projected: list  # pairs of layers whose widths differ
    maps: list  # pairs of convolutions to compare by their attention
    batch: int
    steps: int
    limit: float  # the goal for our ratio to the floor, with logits
    limit_features: float  # the same with 3 feature terms
    faster: float  # the goal for the ratio of keras.distillation with features to ours


# fmt: off
WORKLOADS = {
    "cnn b32": Workload(
        SMALL_TEACHER, SMALL_STUDENT, CNN_EQUAL, CNN_PROJECTED, MAPS, 32, 64, 1.05, 1.08, 1.25),
    "cnn b256": Workload(
        TEACHER, STUDENT, CNN_EQUAL, CNN_PROJECTED, MAPS, 256, 10, 1.03, 1.05, 1.25),
    "bert b32": Workload(
        BERT_TEACHER, BERT_STUDENT, BERT_EQUAL, BERT_PROJECTED, [], 32, 10, 1.03, 1.05, 1.25),
    "one size b128": Workload(
        STUDENT, STUDENT, CNN_EQUAL, [], MAPS, 128, 20, 1.05, 1.08, 1.5),
}
# fmt: on


def dataset(workload, steps, copies=4):
    rng = np.random.default_rng(0)
    shape, kind = workload.student().input.shape[1:], workload.student().input.dtype
    size = workload.batch * copies
    x = rng.integers(0, 5_000, (size, *shape)) if kind == "int32" else rng.random((size, *shape))
    data = tf.data.Dataset.from_tensor_slices((x.astype(kind), rng.integers(0, 10, size)))
    data = data.batch(workload.batch).cache().repeat(math.ceil(steps / copies))
    return data.take(steps).prefetch(tf.data.AUTOTUNE)


# Comparisons of features, written by hand.


def squared(goal, feature):
    return tf.reduce_mean(tf.math.squared_difference(goal, feature))


def similarity(goal, feature):
    """Computes `SimilarityPreserving`."""
    rows = [tf.reshape(side, (tf.shape(side)[0], -1)) for side in (goal, feature)]
    rows = [tf.math.l2_normalize(tf.matmul(row, row, transpose_b=True), 1) for row in rows]
    return tf.reduce_mean(tf.math.squared_difference(*rows))


def attention(goal, feature):
    """Computes `AttentionTransfer`."""
    maps = [tf.reduce_mean(tf.square(side), -1) for side in (goal, feature)]
    maps = [tf.math.l2_normalize(tf.reshape(one, (tf.shape(one)[0], -1)), 1) for one in maps]
    return tf.reduce_mean(tf.norm(maps[0] - maps[1], axis=1))


# Arms: each is a function that runs one epoch and returns (CPU seconds, wall seconds).


def remembered(teacher, data, batch):
    """Returns `batch(x, y, logits)` of each batch with the teacher's logits, in memory."""
    return data.map(lambda x, y: batch(x, y, teacher(x, training=False))).cache().prefetch(2)


def floor_cached(teacher, student, pairs, data):
    return floor(teacher, student, pairs, remembered(teacher, data, lambda *parts: parts))


def floor(teacher, student, pairs, data, compare=squared):
    cross_entropy, optimizer = CROSS_ENTROPY(), keras.optimizers.Adam()
    teacher_taps = [teacher.output, *(teacher.get_layer(name).output for _, name in pairs)]
    student_taps = [student.output, *(student.get_layer(name).output for name, _ in pairs)]
    projections = [
        None if s.shape == t.shape else layers.Dense(t.shape[-1])
        for s, t in zip(student_taps[1:], teacher_taps[1:])
    ]
    for projection, tap in zip(projections, student_taps[1:]):
        if projection is not None:
            projection.build(tap.shape)
    teacher, student = (
        keras.Model(model.input, taps)
        for model, taps in ((teacher, teacher_taps), (student, student_taps))
    )
    variables = list(student.trainable_variables)
    variables += [v for p in projections if p is not None for v in p.trainable_variables]
    optimizer.build(variables)

    @functools.partial(tf.function, input_signature=data.element_spec)
    def step(x, y, *given):
        target, *goals = given or keras.tree.flatten(teacher(x, training=False))
        with tf.GradientTape() as tape:
            logits, *features = keras.tree.flatten(student(x, training=True))
            log_t, log_s = tf.nn.log_softmax(target / T), tf.nn.log_softmax(logits / T)
            kl = T**2 * tf.reduce_mean(tf.reduce_sum(tf.exp(log_t) * (log_t - log_s), -1))
            for goal, feature, projection in zip(goals, features, projections):
                feature = feature if projection is None else projection(feature)
                kl += compare(goal, feature)
            loss = (1 - ALPHA) * cross_entropy(y, logits) + ALPHA * kl
        gradients = tape.gradient(loss, [v.value for v in variables])
        optimizer.apply_gradients(zip(gradients, variables))

    def epoch():
        start = now()
        for batch in data:
            step(*batch)
        return now() - start

    return epoch


def plain(teacher, student, pairs, data):
    student.compile("adam", CROSS_ENTROPY())
    return timed(student.fit, data)


def make_ours(teacher, student, pairs, loss=None, **compiled):
    terms = [Term(KLDivergence(temperature=T), name="kd")]
    for i, (ours, theirs) in enumerate(pairs):
        same = student.get_layer(ours).output.shape == teacher.get_layer(theirs).output.shape
        compared, projector = loss or keras.losses.MeanSquaredError(), None if same else "auto"
        terms.append(
            Term(compared, student=ours, teacher=theirs, projector=projector, name=f"feature{i}")
        )
    distiller = Distiller(student, teacher=teacher, terms=terms, alpha=ALPHA)
    distiller.compile("adam", CROSS_ENTROPY(), **compiled)
    return distiller


def ours(teacher, student, pairs, data, **kwargs):
    return timed(make_ours(teacher, student, pairs, **kwargs).fit, data)


def ours_cached(teacher, student, pairs, data):
    data = remembered(teacher, data, lambda x, y, logits: (x, Supervision(y, logits)))
    return timed(make_ours(CachedTeacher(), student, pairs).fit, data)


def keras_distillation(teacher, student, pairs, data):
    from keras import distillation

    losses = [distillation.LogitsDistillation(T, loss=keras.losses.KLDivergence())]
    losses += [
        distillation.FeatureDistillation(
            keras.losses.MeanSquaredError(), student_layer_name=ours, teacher_layer_name=theirs
        )
        for ours, theirs in pairs
    ]
    distiller = distillation.Distiller(teacher, student, losses, student_loss_weight=1 - ALPHA)
    distiller.compile("adam", CROSS_ENTROPY())
    return timed(distiller.fit, data)


class KerasIODistiller(keras.Model):
    """The example of keras.io: the teacher is an attribute of this model, and so is trained too."""

    def __init__(self, teacher, student):
        super().__init__()
        self.teacher, self.student = teacher, student

    def call(self, x, training=None):
        return self.student(x, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        target = keras.ops.softmax(self.teacher(x, training=False) / T)
        kl = keras.losses.KLDivergence()(target, keras.ops.softmax(y_pred / T)) * T**2
        return (1 - ALPHA) * CROSS_ENTROPY()(y, y_pred) + ALPHA * kl


def keras_io(teacher, student, pairs, data):
    distiller = KerasIODistiller(teacher, student)
    distiller.compile("adam")
    return timed(distiller.fit, data)


def evaluate_student(teacher, student, pairs, data):
    student.compile("adam", CROSS_ENTROPY())
    return timed(student.evaluate, data)


def evaluate_ours(teacher, student, pairs, data):
    return timed(make_ours(teacher, student, pairs).evaluate, data)


def arms(workload):
    """Returns `{name: (arm, pairs of layers, reference, goal)}`; ratios are to the reference."""
    w, at_most, at_least = workload, "<= {}".format, "ours >= {}x faster".format
    table = {"plain student": (plain, [], "floor, logits", None)}
    works = [
        ("logits", [], w.limit, None),
        ("1 feature", w.equal[:1], None, w.faster),
        ("3 features", w.equal, w.limit_features, w.faster),
        (f"{len(w.projected)} projected", w.projected, w.limit_features, None),
    ]
    for work, pairs, limit, faster in works:
        if work == "0 projected":
            continue
        table[f"floor, {work}"] = (floor, pairs, None, None)
        table[f"ours, {work}"] = (ours, pairs, f"floor, {work}", limit and at_most(limit))
        if "projected" not in work:
            goal = faster and at_least(faster)
            table[f"keras.distillation, {work}"] = (
                keras_distillation,
                pairs,
                f"ours, {work}",
                goal,
            )
    partial = functools.partial
    works = [("relation", w.equal[:1], similarity, SimilarityPreserving)]
    works += [("attention", w.maps, attention, AttentionTransfer)] if w.maps else []
    for work, pairs, by_hand, loss in works:
        table[f"floor, {work}"] = (partial(floor, compare=by_hand), pairs, None, None)
        table[f"ours, {work}"] = (partial(ours, loss=loss()), pairs, f"floor, {work}",
                                  at_most(w.limit_features))  # fmt: skip
    table["floor, cached"] = (floor_cached, [], None, None)
    table["ours, cached"] = (ours_cached, [], "floor, cached", at_most(w.limit))
    if w.steps % 16 == 0:
        many = partial(ours, steps_per_execution=16)
        table["ours, 16 steps a call"] = (many, [], "floor, logits", None)
    table["keras.io style, logits"] = (keras_io, [], "floor, logits", None)
    table["evaluate, student"] = (evaluate_student, [], None, None)
    table["evaluate, ours"] = (evaluate_ours, w.equal, "evaluate, student", at_most(1.05))
    return table
