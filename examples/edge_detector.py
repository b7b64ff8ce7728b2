"""
# An edge detector of a tenth of the size

An edge detector finds where in an image one thing ends and another one begins. A holistically
nested detector (HED: Xie and Tu, 2015, https://arxiv.org/abs/1504.06375) answers for each pixel at
several scales and mixes these answers. This example distills such a detector into one with less
than a tenth of its parameters. It compares two ways to distill maps. One compares pixel by pixel.
The other compares each channel as a distribution over the pixels, which says where the channel is
active (Shu et al., 2021, https://arxiv.org/abs/2011.13256).

    python examples/edge_detector.py --seeds=1

It took 53 seconds of CPU time. The test images of one seed, in percent:

| | F-score | average precision | parameters |
|---|---|---|---|
| teacher | 75.59 | 82.14 | 72,871 |
| labels | 39.08 | 36.47 | 4,831 |
| pixels | 47.69 | 48.96 | 4,831 |
| channel | 47.79 | 48.94 | 4,831 |
| pixels and features | 47.56 | 48.76 | 4,831 |

The teacher's maps give the student nine points, whatever compares them. The student stays far from
its teacher. `--seeds=3` continues this run.

A seed draws the images. They show overlapping shapes of random colors, with shading, texture and
noise. The example draws the edges, too, so it knows them exactly. `--tiny` runs everything in under
a minute, with numbers that mean nothing.
"""

import functools

import keras
import numpy as np
from drawings import compared, options, splits
from keras import layers, ops
from sklearn.metrics import average_precision_score, precision_recall_curve

from keras_distill import Distiller, Term, losses

"""
## Images with known edges

A pixel is on an edge if its right or its lower neighbor belongs to another shape.
"""


def scene(draw, size):
    """Returns an image, (size, size, 3) in [0, 1], and its edges, (size, size, 1) of 0 and 1."""
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
    """Returns images and edges, (count, size, size, 3) and (count, size, size, 1)."""
    draw = np.random.default_rng(seed)
    images, edges = zip(*(scene(draw, size) for _ in range(count)), strict=True)
    return np.stack(images).astype("float32"), np.stack(edges).astype("float32")


"""
## The detector

Each block halves the image of the block before it. A side output is one convolution on a block,
enlarged to the size of the image. The last output mixes all side outputs. All outputs are logits.
"""


def detector(size, filters, name):
    """Returns a nested detector with the outputs `{"side_1": ..., "fused": ...}`."""
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
    """Returns the cross-entropy of each pixel. Edges weigh as much in all as the other pixels."""
    share = ops.mean(edges, axis=(1, 2, 3), keepdims=True)
    weight = ops.where(edges > 0.5, 1 - share, share)
    each = ops.binary_crossentropy(edges, logits, from_logits=True)
    return ops.mean(2 * weight * each, axis=-1)


BIG, SMALL = (16, 32, 64), (4, 8, 16)

"""
## The terms

The labels teach all outputs, as in the paper. The students differ in what the teacher teaches them:

- "labels" has no teacher.
- "pixels" compares the pixels of the mixed output.
- "channel" compares the channel of the mixed output. A softmax over all pixels makes it a
  distribution.
- "pixels and features" also compares the channels of the last block. A convolution turns the
  student's 16 channels into 64.
"""

KINDS = ("labels", "pixels", "channel", "pixels and features")


def terms(kind):
    """Returns the terms of a student as a list."""
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


def train(given, data, kind, seed, teacher):
    """Trains the teacher, or a student on one kind of terms; returns `(model, record)`."""
    print(f"\nseed {seed}, {kind}")
    keras.utils.set_random_seed(seed)
    big = teacher is None
    model = detector(given.size, BIG if big else SMALL, "teacher" if big else "student")
    epochs = given.teacher_epochs if big else given.epochs
    chosen = [] if big else terms(kind)
    scheme = {"teacher": teacher, "terms": chosen, "alpha": given.alpha} if chosen else {}
    keras.utils.set_random_seed(seed)  # all students see the images in the same order
    images, edges = data["train"]
    steps = epochs * -(-len(images) // given.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps, alpha=0.01)
    distiller = Distiller(model, **scheme)
    distiller.compile(keras.optimizers.Adam(rate), balanced)
    logs = distiller.fit(images, edges, batch_size=given.batch_size, epochs=epochs, verbose=2)
    return model, {"loss": [float(value) for value in logs.history["loss"]]}


"""
## The result

The table shows the best F-score over all thresholds and the average precision, in percent. All
images have the same threshold. Only exact pixels count, so an edge beside the true one is wrong.
"""


def scores(images, edges, model):
    """Returns the row of the table for a model."""
    logits = model.predict(images, batch_size=32, verbose=0)["fused"].ravel()
    precision, recall, _ = precision_recall_curve(edges.ravel(), logits)
    both = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    return {
        "F-score": 100 * float(both.max()),
        "average precision": 100 * float(average_precision_score(edges.ravel(), logits)),
        "parameters": model.count_params(),
    }


def main(arguments=None):
    given = options("Distills an edge detector.", arguments, out="runs/edge_detector", images=200,
                    test=100, size=48, seeds=2, epochs=10, teacher_epochs=20, batch_size=16,
                    alpha=0.5, tiny={"images": 16, "test": 8, "size": 16})  # fmt: skip
    data = splits(given, scenes)
    compared(given, KINDS, functools.partial(train, given, data),
             functools.partial(scores, *data["test"]))  # fmt: skip


if __name__ == "__main__":
    main()
