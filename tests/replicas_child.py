"""Trains by every loss on one device and on two replicas; prints what differs, as JSON.

A process of its own: logical devices must be made before anything runs, and one process holds one
strategy. Without `WHOLE` the steps of all losses run eagerly, and those of a few as graphs, whose
tracing takes four times as long.
"""

import contextlib
import inspect
import json

import keras
import numpy as np
import tensorflow as tf

CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(CPU, [tf.config.LogicalDeviceConfiguration()] * 2)
# Each graph runs six times: to make it faster takes longer.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

from loss_families import CLASSES, each, family, leaves  # noqa: E402
from whole import WHOLE  # noqa: E402

from keras_distill import Distiller, Term, losses  # noqa: E402

# Eagerly Keras refuses the largest of no numbers, which a replica without an example asks for.
tf.assert_greater = lambda *args, **kwargs: None
STRATEGY = tf.distribute.MirroredStrategy(
    ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
)


def exported_losses():
    """Every exported loss with the shapes, without the batch, of each side."""
    for name in getattr(losses, "__all__", dir(losses)):
        kind = getattr(losses, name)
        base = losses.DistillationLoss
        if inspect.isclass(kind) and issubclass(kind, base) and kind is not base:
            usual = family(kind)
            labelled = "labels" in inspect.signature(kind.call).parameters
            for index, shape in enumerate(usual.shapes):
                if labelled and len(shape) > 2:  # the labels here are one an example
                    continue
                sides = (shape, usual.teacher_of(shape))
                sides = [each(lambda part: part[1:], side) for side in sides]
                yield f"{name}_{index}", kind(**usual.arguments), *sides


HEADS = {}
for _name, _loss, *_sides in exported_losses():
    HEADS[_name] = (_loss, *_sides)
# A list, one that keeps numbers of each example, one that gathers the batch, one of two structures.
TRACED = ("HierarchicalContext_1", "ContrastiveRepresentation_0", "RelationalDistance_0",
          "AlignedSpans_0")  # fmt: skip


def tokens_of(loss, shape):
    """How many tokens a head has; 0 where it has none."""
    if loss.token_axes not in ((1,), ()):
        return leaves(shape)[0][loss.token_axes[0] - 1]
    ranks = {len(part) for part in leaves(shape)}
    has_tokens = ranks == {2} or (family(type(loss)).tokens and min(ranks) > 1)
    return leaves(shape)[0][0] if has_tokens else 0


def parts(name, structure):
    """The name of an output for every leaf of a structure of shapes."""
    if isinstance(structure, tuple):
        return name
    keys = structure if isinstance(structure, dict) else range(len(structure))
    named = {key: f"{name}_{key}" for key in keys}
    return named if isinstance(structure, dict) else list(named.values())


def network(heads, width, side):
    """A head of its own for every loss, a hidden layer for hints, and one for labels."""
    x = keras.Input((5,), name="x")
    masks = {tokens: keras.Input((tokens,), name=f"mask{tokens}") for tokens in lengths(heads)}
    inner = keras.Sequential([keras.layers.Dense(width, "tanh", name="hint")], name="inner")
    hidden = keras.Sequential([inner], name="outer")(x)
    outputs = {"label": keras.layers.Dense(1, name="label")(hidden)}
    for name, head in heads.items():
        names = keras.tree.flatten(parts(name, head[side]))
        for part, shape in zip(names, in_order(head[side]), strict=True):
            # not linear: a loss that ignores a shift must train the bias too
            dense = keras.layers.Dense(int(np.prod(shape)), "elu", name=part)(x)
            outputs[part] = keras.layers.Reshape(shape)(dense) if shape else indices(dense)
            if part.endswith("spans"):
                outputs[part] = spans(outputs[part])
    return keras.Model({"x": x, **{f"mask{t}": mask for t, mask in masks.items()}}, outputs)


def indices(dense):
    """Whole numbers below `CLASSES`, one an example, of an output."""
    return keras.ops.mod(keras.ops.floor(keras.ops.squeeze(dense, -1) * 10), CLASSES)


def spans(values):
    """The numbers of the spans of text in which tokens are: 1 or 2."""
    return keras.ops.mod(keras.ops.floor(values * 10), 2) + 1


def in_order(structure):
    """The leaves as `keras.tree.flatten` orders them."""
    if isinstance(structure, dict):
        return [structure[key] for key in sorted(structure)]
    return leaves(structure)


def lengths(heads):
    return sorted({tokens_of(loss, shape) for loss, shape, _ in heads.values()} - {0})


def paths(name, structure):
    return keras.tree.map_structure(lambda part: f"output:{part}", parts(name, structure))


def terms(heads):
    for name, (loss, student, teacher) in heads.items():
        loss = type(loss).from_config(loss.get_config())  # what it remembers is a strategy's own
        tokens = tokens_of(loss, student)
        mask = ("sample_weight", f"input:mask{tokens}") if tokens else "sample_weight"
        yield Term(loss, student=paths(name, student), teacher=paths(name, teacher), name=name,
                   mask=mask)  # fmt: skip
    yield Term(
        keras.losses.MeanSquaredError(),
        student="outer/inner/hint",
        teacher="outer/inner/hint",
        projector="auto",
        name="hint",
    )


def data(size, labels, heads=HEADS):
    random = np.random.default_rng(size)
    x = {"x": random.normal(size=(size, 5)).astype("float32")}
    for tokens in lengths(heads):
        kept = np.arange(tokens) <= random.integers(0, tokens, (size, 1))
        x[f"mask{tokens}"] = kept.astype("float32")
    weight = random.uniform(0.1, 3, size).astype("float32")
    return x, labels(random, size), weight


def fill(variables, seed):
    random = np.random.default_rng(seed)
    for variable in variables:
        variable.assign(random.normal(size=variable.shape) * 0.5)


SIZE, BATCH = 11, 5  # the last batch has one example: one replica has none


def train(strategy, heads, eagerly):
    """The weights and the logs after an epoch or two without labels."""
    labels = lambda random, size: random.integers(0, CLASSES, size)  # noqa: E731
    x, y, weight = data(SIZE, labels, heads)
    with strategy.scope() if strategy else contextlib.nullcontext():
        student, teacher = network(heads, 6, 1), network(heads, 9, 2)
        fill(teacher.trainable_variables, 1)
        distiller = Distiller(student, teacher=teacher, terms=list(terms(heads)), alpha=1.0)
        # not Adam, to which a gradient twice too large is the same gradient
        sgd = keras.optimizers.SGD(0.05, momentum=0.5)
        distiller.compile(sgd, jit_compile=False, run_eagerly=eagerly)
    fit = {
        "x": x,
        "y": y,
        "batch_size": BATCH,
        "sample_weight": weight,
        "shuffle": False,
        "verbose": 0,
    }
    distiller.fit(**fit, epochs=0)  # builds the projectors
    fill(distiller.trainable_variables, 2)
    history = distiller.fit(**fit, epochs=1 if eagerly else 2).history
    weights = {variable.path: variable.numpy() for variable in distiller.trainable_variables}
    return weights, history


class Kept(keras.callbacks.Callback):
    """The weights after the last batch that was good."""

    def on_train_batch_end(self, batch, logs=None):
        self.weights = self.model.student.get_weights()


def guarded():
    """What is said, and whether the weights stay, where one replica's teacher fails in step 1."""
    inputs, y, _ = data(24, lambda random, size: random.integers(0, CLASSES, size))
    x = inputs["x"]
    x[8:12] += 100
    with STRATEGY.scope():
        student = keras.Sequential(
            [keras.Input((5,)), keras.layers.BatchNormalization(), keras.layers.Dense(CLASSES)]
        )
        distiller = Distiller(
            student, teacher=lambda x: tf.where(x[:, :1] > 50, np.nan, x[:, :CLASSES])
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
    kept, said = Kept(), ""
    try:
        distiller.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[kept])
    except ValueError as error:
        said = str(error)
    same = [np.array_equal(*pair) for pair in zip(kept.weights, student.get_weights())]
    return said, all(same)


def compared(heads, eagerly):
    (one, one_logs), (two, two_logs) = (train(where, heads, eagerly) for where in (None, STRATEGY))
    untrained = [
        path
        for (path, v), start in zip(one.items(), _started(one), strict=True)
        if np.allclose(v, start) and not path.endswith("bias")  # some losses see no constant
    ]
    return {
        "variables": {
            f"{index} {path}": float(np.abs(value - other).max())
            for index, ((path, value), other) in enumerate(
                zip(one.items(), two.values(), strict=True)
            )
        },
        "logs": {
            name: float((np.abs(np.subtract(value, two_logs[name])) / np.maximum(1, value)).max())
            for name, value in one_logs.items()
        },
        "same_logs": sorted(one_logs) == sorted(two_logs),
        "finite": all(np.isfinite(value).all() for value in two.values()),
        "untrained": len(untrained),
    }


def _started(weights):
    random = np.random.default_rng(2)
    return [random.normal(size=value.shape) * 0.5 for value in weights.values()]


if __name__ == "__main__":
    found = {"all": compared(HEADS, eagerly=not WHOLE), "heads": list(HEADS)}
    found["traced"] = compared({name: HEADS[name] for name in TRACED}, eagerly=False)
    print(json.dumps({**found, "guarded": guarded()}))
