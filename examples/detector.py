"""
# A smaller object detector

KerasHub's RetinaNet finds things of two kinds in images. A detector is distilled like any model:
its class logits of all anchor boxes are an output, and the maps of its pyramid are features.
Maps are compared by their correlation, whatever their scale (PKD: Cao et al., 2022,
https://arxiv.org/abs/2207.02039). The labels are the student's own business: KerasHub's task turns
boxes into targets for its anchors, and the distiller trains it as `fit` would.

    python examples/detector.py

The images are drawn by a seed, and both detectors begin with random weights: no preset is fetched.
`--tiny` tries it all out in under a minute: its numbers mean nothing.
"""

import argparse
import functools
import pathlib

import keras
import keras_hub
import numpy as np

from keras_distill import Distiller, Term, losses
from keras_distill.experiments import Arm, Runner

KINDS = ("rectangle", "ellipse")
FORMAT = "xyxy"

"""
## Images with known boxes

In three of the four quarters of an image lies a rectangle or an ellipse of a random color. Colors
tell nothing of the kind. Noise lies over everything.
"""


def scene(draw, size):
    """One image, (size, size, 3) in [0, 1], the boxes in it, (3, 4), and their kinds, (3,)."""
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
    """So many images, and what the detector's `fit` takes as labels."""
    draw = np.random.default_rng(seed)
    images, boxes, kinds = (np.stack(part).astype("float32") for part in zip(
        *(scene(draw, size) for _ in range(count)), strict=True))  # fmt: skip
    return images, {"boxes": boxes, "labels": kinds}


"""
## The detectors

A small ResNet, KerasHub's pyramid over its last three levels, and heads of one hidden layer. The
pyramid and the heads are 256 channels wide whatever the network below, so that teacher and student
differ in the network, and their maps need no projector.
"""

BIG, SMALL = ((64, 128, 256, 256), 2), ((64, 32, 32, 32), 1)  # KerasHub asks for 64 first


def detector(size, sizes, name):
    """A RetinaNet on a ResNet of these filters and blocks."""
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
        backbone, len(KINDS), bounding_box_format=FORMAT, anchor_generator=anchors,
        pre_logits_num_conv_layers=1, prediction_decoder=decoder, name=name,
    )  # fmt: skip


"""
## The terms

An image has 504 anchors, of which a handful lie on something: the divergence is a mean over all of
them, and its weight makes up for that. A path names one of the values of a layer by a colon.
"""


def terms(kind, given):
    """What a student learns beside the boxes, as a list of terms."""
    logits = Term(losses.BinaryKLDivergence(), student="output:cls_logits",
                  teacher="output:cls_logits", weight=given.logits, name="logits")  # fmt: skip
    maps = [
        Term(losses.PearsonCorrelation(), student=f"backbone/fpn:{level}",
             teacher=f"backbone/fpn:{level}", weight=given.maps, name=f"maps_{level}")
        for level in ("P3", "P4", "P5")
    ]  # fmt: skip
    return {"boxes": [], "logits": [logits], "logits and maps": [logits, *maps]}[kind]


def trained(title, model, given, data, seed, epochs, **scheme):
    """`(model, record)`, as an arm is trained."""
    print(f"\nseed {seed}, {title}")
    keras.utils.set_random_seed(seed)
    images, labels = data["train"]
    steps = epochs * -(-len(images) // given.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps, alpha=0.01)
    distiller = Distiller(model, **scheme)
    distiller.compile(optimizer=keras.optimizers.Adam(rate, clipnorm=10.0))
    logs = distiller.fit(images, labels, batch_size=given.batch_size, epochs=epochs, verbose=2)
    return model, {"loss": [float(value) for value in logs.history["loss"]]}


"""
## The result

The mean over both kinds of the average precision in percent, where a box is found if it overlaps
by more than half, and the parameters of the network and of the whole.
"""


def overlap(box, others):
    """The intersection of a box with others over their union: (others,)."""
    corners = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = np.prod(np.clip(corners[1] - corners[0], 0, None), axis=1)
    areas = [np.prod(each[..., 2:] - each[..., :2], axis=-1) for each in (box, others)]
    return common / np.maximum(areas[0] + areas[1] - common, 1e-9)


def average_precision(found, labels, kind, least=0.5):
    """The area under precision over recall for one kind; each true box is found once at most."""
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
        if terms(kind, given):
            scheme = {"teacher": model_of("teacher"), "terms": terms(kind, given),
                      "alpha": given.alpha}  # fmt: skip
        return trained(kind, model, given, data, seed, given.epochs, **scheme)

    def measure(seed, model, model_of):
        images, labels = data["test"]
        found = model.predict(images, batch_size=16, verbose=0)
        precision = [average_precision(found, labels, kind) for kind in range(len(KINDS))]
        return {
            "average precision": 100 * float(np.mean(precision)),
            "network": model.backbone.image_encoder.count_params(),
            "parameters": model.count_params(),
        }

    kinds = ("boxes", "logits", "logits and maps")
    return {"teacher": Arm(teacher, measure, once=True),
            **{kind: Arm(functools.partial(student, kind), measure) for kind in kinds}}  # fmt: skip


def main(arguments=None):
    parser = argparse.ArgumentParser(description="A smaller object detector.")
    parser.add_argument("--out", default="runs/detector", type=pathlib.Path)
    parser.add_argument("--tiny", action="store_true", help="few small images, one epoch")
    for key, value in {"images": 300, "test": 200, "size": 64, "seeds": 2, "epochs": 15,
                       "teacher_epochs": 20, "batch_size": 16, "alpha": 0.5, "logits": 20.0,
                       "maps": 1.0}.items():  # fmt: skip
        parser.add_argument(f"--{key}", default=value, type=type(value))
    given = parser.parse_args(arguments)
    if given.tiny:
        given.images, given.test, given.size = 4, 2, 32
        given.seeds, given.epochs, given.teacher_epochs = 1, 1, 1
    settings = {key: value for key, value in vars(given).items() if key not in ("out", "seeds")}
    Runner(arms(given), seeds=given.seeds, folder=given.out, settings=settings).run(resume=True)


if __name__ == "__main__":
    main()
