"""
# An edge detector of a tenth of the size

Where in an image does one thing end and another begin? A holistically nested detector (HED: Xie and
Tu, 2015, https://arxiv.org/abs/1504.06375) answers for each pixel, at several scales, and mixes
these answers. Here such a detector teaches one of less than a tenth of its parameters. Two ways to
compare maps stand against each other: pixel by pixel, and each channel as a distribution over the
pixels, which says where it is active (Shu et al., 2021, https://arxiv.org/abs/2011.13256).

    python examples/edge_detector.py

The images are drawn by a seed: shapes of random colors with shading, texture and noise, one over
the other. The edges are known, since they were drawn. `--tiny` tries it all out in under a minute:
its numbers mean nothing.
"""

import argparse
import functools
import pathlib

import keras
import numpy as np
from keras import layers, ops
from sklearn.metrics import average_precision_score, precision_recall_curve

from keras_distill import Distiller, Term, losses
from keras_distill.experiments import Arm, Runner

"""
## Images with known edges

A pixel is on an edge where its right or its lower neighbor belongs to another shape.
"""


def scene(draw, size):
    """One image, (size, size, 3) in [0, 1], and its edges, (size, size, 1) of 0 and 1."""
    rows, columns = np.mgrid[:size, :size] / size
    owner = np.zeros((size, size), int)
    for shape in range(1, draw.integers(4, 9)):
        y, x = draw.random(2)
        height, width = draw.uniform(0.08, 0.35, 2)
        turn = draw.uniform(0, np.pi)
        along = np.cos(turn) * (columns - x) + np.sin(turn) * (rows - y)
        across = np.cos(turn) * (rows - y) - np.sin(turn) * (columns - x)
        if draw.random() < 0.5:
            inside = (along / width) ** 2 + (across / height) ** 2 < 1
        else:
            inside = (np.abs(along) < width) & (np.abs(across) < height)
        owner[inside] = shape
    colors = draw.uniform(0, 1, (9, 3))
    slopes, waves = draw.normal(0, 0.25, (9, 2, 3)), draw.uniform(0, 0.2, 9)
    places = np.stack([rows, columns], -1)
    image = colors[owner] + np.einsum("ija,ijac->ijc", places, slopes[owner])
    texture = np.sin(size * (rows + 2 * columns) + owner) * waves[owner]
    image = image + texture[..., None] + draw.normal(0, 0.12, image.shape)
    edges = np.zeros((size, size), bool)
    edges[:, :-1] |= owner[:, :-1] != owner[:, 1:]
    edges[:-1] |= owner[:-1] != owner[1:]
    return np.clip(image, 0, 1), edges[..., None]


def scenes(count, size, seed):
    """So many images and edges: (count, size, size, 3) and (count, size, size, 1)."""
    draw = np.random.default_rng(seed)
    images, edges = zip(*(scene(draw, size) for _ in range(count)), strict=True)
    return np.stack(images).astype("float32"), np.stack(edges).astype("float32")


"""
## The detector

Each block halves the image of the block before. A side output is one convolution on a block,
enlarged to the image. The last output mixes all side outputs. All of them are logits.
"""


def detector(size, filters, name):
    """A nested detector with the outputs `{"side_1": ..., "fused": ...}`."""
    x = inputs = keras.Input((size, size, 3))
    sides = {}
    for block, width in enumerate(filters, start=1):
        x = layers.MaxPooling2D()(x) if block > 1 else x
        for layer in ("a", "b"):
            x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
            x = layers.BatchNormalization(momentum=0.9)(x)
            x = layers.ReLU(name=f"block_{block}" if layer == "b" else None)(x)
        side = layers.Conv2D(1, 1)(x)
        if block > 1:
            side = layers.UpSampling2D(2 ** (block - 1), interpolation="bilinear")(side)
        sides[f"side_{block}"] = side
    fused = layers.Conv2D(1, 1)(layers.Concatenate()([*sides.values()]))
    return keras.Model(inputs, {**sides, "fused": fused}, name=name)


@keras.saving.register_keras_serializable(package="edge_detector")
def balanced(edges, logits):
    """The cross-entropy of each pixel. An edge weighs as much as all pixels that are none."""
    share = ops.mean(edges, axis=(1, 2, 3), keepdims=True)
    weight = ops.where(edges > 0.5, 1 - share, share)
    each = ops.binary_crossentropy(edges, logits, from_logits=True)
    return ops.mean(2 * weight * each, axis=-1)


BIG, SMALL = (16, 32, 64), (4, 8, 16)

"""
## The terms

The labels teach all outputs, as in the paper. The teacher teaches the mixed output by its pixels or
by its channel, which a softmax over all pixels makes a distribution; or the last block by its
channels, behind a convolution that makes the student's 16 channels 64.
"""


def terms(kind):
    """What a student learns beside the labels, as a list of terms."""
    fused = {"student": "output:fused", "teacher": "output:fused"}
    block = {"student": "block_3", "teacher": "block_3", "projector": "auto"}
    return {
        "labels": [],
        "pixels": [Term(losses.BinaryKLDivergence(), **fused)],
        "channel": [Term(losses.ChannelWise(temperature=4.0), **fused)],
        "pixels and features": [
            Term(losses.BinaryKLDivergence(), **fused),
            Term(losses.ChannelWise(temperature=4.0), name="features", weight=0.1, **block),
        ],
    }[kind]


def trained(title, model, given, data, seed, epochs, **scheme):
    """`(model, record)`, as an arm is trained."""
    print(f"\nseed {seed}, {title}")
    keras.utils.set_random_seed(seed)
    images, edges = data["train"]
    steps = epochs * -(-len(images) // given.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps, alpha=0.01)
    distiller = Distiller(model, **scheme)
    distiller.compile(keras.optimizers.Adam(rate), balanced)
    logs = distiller.fit(images, edges, batch_size=given.batch_size, epochs=epochs, verbose=2)
    return model, {"loss": [float(value) for value in logs.history["loss"]]}


"""
## The result

The best F-score over all thresholds, which is one for all images, and the average precision, in
percent. They are those of exact pixels: an edge that is one pixel beside counts as wrong.
"""


def scores(model, images, edges):
    """The row of the table."""
    logits = model.predict(images, batch_size=32, verbose=0)["fused"].ravel()
    precision, recall, _ = precision_recall_curve(edges.ravel(), logits)
    both = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    return {
        "F-score": 100 * float(both.max()),
        "average precision": 100 * float(average_precision_score(edges.ravel(), logits)),
        "parameters": model.count_params(),
    }


def arms(given):
    """`{name: Arm}`."""
    counts = {"train": given.images, "test": given.test}
    data = {split: scenes(count, given.size, place)
            for place, (split, count) in enumerate(counts.items())}  # fmt: skip

    def teacher(seed, model_of):
        keras.utils.set_random_seed(seed)
        model = detector(given.size, BIG, "teacher")
        return trained("teacher", model, given, data, seed, given.teacher_epochs)

    def student(kind, seed, model_of):
        keras.utils.set_random_seed(seed)
        model = detector(given.size, SMALL, "student")
        scheme = {}
        if terms(kind):
            scheme = {"teacher": model_of("teacher"), "terms": terms(kind), "alpha": given.alpha}
        return trained(kind, model, given, data, seed, given.epochs, **scheme)

    def measure(seed, model, model_of):
        return scores(model, *data["test"])

    kinds = ("labels", "pixels", "channel", "pixels and features")
    return {"teacher": Arm(teacher, measure, once=True),
            **{kind: Arm(functools.partial(student, kind), measure) for kind in kinds}}  # fmt: skip


def main(arguments=None):
    parser = argparse.ArgumentParser(description="An edge detector of a tenth of the size.")
    parser.add_argument("--out", default="runs/edge_detector", type=pathlib.Path)
    parser.add_argument("--tiny", action="store_true", help="few small images, one epoch")
    for key, value in {"images": 200, "test": 100, "size": 48, "seeds": 2, "epochs": 10,
                       "teacher_epochs": 20, "batch_size": 16, "alpha": 0.5}.items():  # fmt: skip
        parser.add_argument(f"--{key}", default=value, type=type(value))
    given = parser.parse_args(arguments)
    if given.tiny:
        given.images, given.test, given.size = 16, 8, 16
        given.seeds, given.epochs, given.teacher_epochs = 1, 1, 1
    settings = {key: value for key, value in vars(given).items() if key not in ("out", "seeds")}
    Runner(arms(given), seeds=given.seeds, folder=given.out, settings=settings).run(resume=True)


if __name__ == "__main__":
    main()
