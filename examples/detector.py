"""
# A smaller object detector

KerasHub's RetinaNet finds objects of two kinds in images. You can distill a detector like any other
model. The class logits of its anchor boxes are an output, and the maps of its feature pyramid are
features. This example compares the maps by their correlation, which does not depend on their scale
(PKD: Cao et al., 2022, https://arxiv.org/abs/2207.02039). The labels need no special treatment.
KerasHub's task turns boxes into targets for its anchors, and the distiller trains it as `fit`
would.

    python examples/detector.py --seeds=1

It took 7 minutes of CPU time. The average precision on the 200 test images of one seed, in percent:

| | average precision | network | parameters |
|---|---|---|---|
| teacher | 2.85 | 5,209,536 | 8,407,524 |
| boxes | 2.47 | 145,984 | 3,204,708 |
| logits | 1.84 | 145,984 | 3,204,708 |
| logits and maps | 2.56 | 145,984 | 3,204,708 |

300 images and 20 epochs are far too few to train a detector from random weights. So the table shows
that the parts work together, and not that distillation helps. Raise `--images`, `--teacher_epochs`
and `--epochs` to train a detector that finds the objects.

A seed draws the images. Both detectors start from random weights, so no preset is downloaded.
`--tiny` runs everything in under a minute, with numbers that mean nothing.
"""

import functools
import math

import keras
import keras_hub
import numpy as np
from drawings import compared, options, splits

from keras_distill import Distiller, Term, losses

SHAPES = ("rectangle", "ellipse")
FORMAT = "xyxy"

"""
## Images with known boxes

Three of the four quarters of an image hold a rectangle or an ellipse of a random color. The colors
say nothing about the kind. Noise covers the whole image.
"""


def scene(draw, size):
    """Returns an image, (size, size, 3) in [0, 1], its boxes, (3, 4), and their kinds, (3,)."""
    image = np.broadcast_to(draw.uniform(0, 1, 3), (size, size, 3)).copy()
    rows, columns = np.mgrid[:size, :size] + 0.5
    boxes, kinds = [], draw.integers(0, 2, 3)
    for quarter, kind in zip(draw.permutation(4)[:3], kinds):
        height, width = draw.uniform(0.2 * size, 0.45 * size, 2)
        top = size / 2 * (quarter // 2) + draw.uniform(0, size / 2 - height)
        left = size / 2 * (quarter % 2) + draw.uniform(0, size / 2 - width)
        down, right = (rows - top) / height * 2 - 1, (columns - left) / width * 2 - 1
        far = down**2 + right**2 if kind else np.maximum(np.abs(down), np.abs(right))
        image[far < 1] = draw.uniform(0, 1, 3)
        boxes.append([left, top, left + width, top + height])
    image = np.clip(image + draw.normal(0, 0.08, image.shape), 0, 1)
    return image, np.array(boxes), kinds


def scenes(count, size, seed):
    """Returns `count` images, and the labels that the detector's `fit` takes."""
    draw = np.random.default_rng(seed)
    images, boxes, kinds = (np.stack(part).astype("float32") for part in zip(
        *(scene(draw, size) for _ in range(count)), strict=True))  # fmt: skip
    return images, {"boxes": boxes, "labels": kinds}


"""
## The detectors

A detector has a small ResNet, KerasHub's feature pyramid over its last three levels, and heads with
one hidden layer. The pyramid and the heads always have 256 channels. Teacher and student therefore
differ only in the ResNet, and their maps need no projector.
"""

BIG, SMALL = ((64, 128, 256, 256), 2), ((64, 32, 32, 32), 1)  # KerasHub requires 64 first


def detector(size, sizes, name):
    """Returns a RetinaNet on a ResNet with these filters and blocks."""
    filters, blocks = sizes
    network = keras_hub.models.ResNetBackbone(
        [64], [3], filters, [blocks] * 4, [1, 2, 2, 2], "basic_block",
        image_shape=(size, size, 3),
    )  # fmt: skip
    backbone = keras_hub.models.RetinaNetBackbone(
        network, min_level=3, max_level=5, use_p5=False, image_shape=(size, size, 3)
    )
    anchors = keras_hub.layers.AnchorGenerator(
        FORMAT, min_level=3, max_level=5, num_scales=2, aspect_ratios=[0.5, 1.0, 2.0],
        anchor_size=2.0,
    )  # fmt: skip
    decoder = keras_hub.layers.NonMaxSuppression(
        FORMAT, from_logits=True, confidence_threshold=0.05, max_detections=20
    )
    return keras_hub.models.RetinaNetObjectDetector(
        backbone, len(SHAPES), bounding_box_format=FORMAT, anchor_generator=anchors,
        pre_logits_num_conv_layers=1, prediction_decoder=decoder, name=name,
    )  # fmt: skip


"""
## The terms

An image has 504 anchors, and only a few of them cover an object. The divergence is a mean over all
anchors, so its weight is large. In a path, the name after the colon selects one of the values that
a layer returns.
"""

KINDS = ("boxes", "logits", "logits and maps")


def terms(kind, given):
    """Returns the terms of a student as a list, beside the loss of the boxes."""
    logits = Term(losses.BinaryKLDivergence(), student="output:cls_logits",
                  teacher="output:cls_logits", weight=given.logits, name="logits")  # fmt: skip
    maps = [
        Term(losses.PearsonCorrelation(), student=f"backbone/fpn:{level}",
             teacher=f"backbone/fpn:{level}", weight=given.maps, name=f"maps_{level}")
        for level in ("P3", "P4", "P5")
    ]  # fmt: skip
    return {"boxes": [], "logits": [logits], "logits and maps": [logits, *maps]}[kind]


def train(given, data, kind, seed, teacher):
    """Trains the teacher, or a student on one kind of terms; returns `(model, record)`."""
    print(f"\nseed {seed}, {kind}")
    keras.utils.set_random_seed(seed)
    big = teacher is None
    model = detector(given.size, BIG if big else SMALL, "teacher" if big else "student")
    epochs = given.teacher_epochs if big else given.epochs
    chosen = [] if big else terms(kind, given)
    scheme = {"teacher": teacher, "terms": chosen, "alpha": given.alpha} if chosen else {}
    keras.utils.set_random_seed(seed)  # all students see the images in the same order
    images, labels = data["train"]
    steps = epochs * -(-len(images) // given.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps, alpha=0.01)
    distiller = Distiller(model, **scheme)
    distiller.compile(optimizer=keras.optimizers.Adam(rate, clipnorm=10.0))
    logs = distiller.fit(images, labels, batch_size=given.batch_size, epochs=epochs, verbose=2)
    return model, {"loss": [float(value) for value in logs.history["loss"]]}


"""
## The result

The table shows the average precision in percent, as the mean over both kinds. A box counts as found
if it overlaps the true box by more than half. The table also shows the parameters of the ResNet
("network") and of the whole detector.
"""


def overlap(box, others):
    """Returns the intersection over union of a box with each of the others, (others,)."""
    corners = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = np.prod(np.clip(corners[1] - corners[0], 0, None), axis=1)
    areas = [np.prod(each[..., 2:] - each[..., :2], axis=-1) for each in (box, others)]
    return common / np.maximum(areas[0] + areas[1] - common, 1e-9)


def average_precision(found, labels, kind, least=0.5):
    """Returns the area under precision over recall for one kind of object.

    Each true box is found at most once.
    """
    hits, total = [], int((labels["labels"] == kind).sum())
    for image in range(len(labels["boxes"])):
        true = labels["boxes"][image][labels["labels"][image] == kind]
        left = np.ones(len(true), bool)
        count = int(found["num_detections"][image])
        order = np.argsort(-found["confidence"][image][:count])
        for place in order[found["labels"][image][:count][order] == kind]:
            shares = overlap(found["boxes"][image][place], true) * left
            hit = len(true) > 0 and shares.max() > least
            if hit:
                left[shares.argmax()] = False
            hits.append((found["confidence"][image][place], hit))
    right = np.cumsum([hit for _, hit in sorted(hits, key=lambda each: -each[0])])
    precision = right / np.arange(1, len(right) + 1)
    steps = np.diff(right, prepend=0)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((best * steps).sum() / max(1, total))


def scores(images, labels, model):
    """Returns the row of the table for a model."""
    size = math.gcd(len(images), 16)  # KerasHub's decoder needs batches of one size
    found = model.predict(images, batch_size=size, verbose=0)
    precision = [average_precision(found, labels, kind) for kind in range(len(SHAPES))]
    return {
        "average precision": 100 * float(np.mean(precision)),
        "network": model.backbone.image_encoder.count_params(),
        "parameters": model.count_params(),
    }


def main(arguments=None):
    given = options("Distills an object detector.", arguments, out="runs/detector", images=300,
                    test=200, size=64, seeds=2, epochs=15, teacher_epochs=20, batch_size=16,
                    alpha=0.5, logits=20.0, maps=1.0,
                    tiny={"images": 4, "test": 2, "size": 32})  # fmt: skip
    data = splits(given, scenes)
    compared(given, KINDS, functools.partial(train, given, data),
             functools.partial(scores, *data["test"]))  # fmt: skip


if __name__ == "__main__":
    main()
