"""
# Several teachers that answer as one

Three networks of the same size with different initial weights know more together than one of them.
But they cost three times as much. One student can keep a part of what they know together (Hinton et
al., 2015, https://arxiv.org/abs/1503.02531). In this example a student learns from labels alone,
from one teacher, or from all three teachers, whose answers are mixed in three ways.

    python examples/several_teachers.py --seeds=2

It took two minutes of CPU time on scikit-learn's 8 x 8 digits. The table shows the accuracy on the
600 test images in percent, as mean and deviation over two seeds:

| | accuracy |
|---|---|
| one teacher, the mean of the three | 98.00 |
| three teachers together | 98.67 ± 0.71 |
| student of labels | 91.83 ± 3.54 |
| student of one teacher | 91.33 ± 2.36 |
| student of three teachers, probabilities | 91.33 ± 3.06 |
| student of three teachers, logits | 91.67 ± 3.30 |
| student of three teachers, confidence | 91.50 ± 3.30 |

The three teachers together were better than one teacher by two thirds of a point. The students were
not. The differences between them are smaller than those between two seeds. We did not try a longer
training (`--epochs`).

The default data are scikit-learn's 8 x 8 digits. `--data=DIR` reads the four idx `.gz` files of
Fashion-MNIST from the folder `DIR`, and `--tfds=fashion_mnist` downloads Fashion-MNIST. `--tiny`
runs everything in under a minute, with numbers that mean nothing.
"""

import functools

import keras
import numpy as np
from images import compared, images_of, options
from networks import accuracy, made, network, trained

from keras_distill import EnsembleTeacher, Term, losses
from keras_distill.experiments import Arm

SMALL, BIG = (4, 8, 16), (16, 32, 64)
TEACHERS = ("first", "second", "third")

"""
## The teachers

Each teacher is trained on the labels alone, with its own initial weights and its own order of the
data.
"""


def teacher(name, given, data, shape, seed, model_of):
    """Trains one of the three teachers."""
    own = seed + 1000 * TEACHERS.index(name)
    return trained(f"{name} teacher", made(own, network, shape, BIG, name=name), data,
                   given.epochs, own)  # fmt: skip


def mean_accuracy(models, images, labels):
    """Returns the accuracy of the mean of several models' probabilities in percent."""
    outputs = [model.predict(images, batch_size=256, verbose=0) for model in models]
    mean = sum(keras.ops.convert_to_numpy(keras.ops.softmax(each)) for each in outputs)
    return 100 * float(np.mean(mean.argmax(-1) == labels))


"""
## The students

An `EnsembleTeacher` runs all three teachers in each step and mixes their answers in one of three
ways:

- "probabilities" takes the mean of the probabilities.
- "logits" takes the mean of the logits.
- "confidence" takes a weighted mean of the probabilities. A teacher has more weight on the images
  that it gets right (Zhang et al., 2022, https://arxiv.org/abs/2201.00007).

In each case the terms see one teacher. All students start from the same weights and see the data in
the same order.
"""

MIXTURES = ("probabilities", "logits", "confidence")


def student(title, teacher_of, given, data, shape, seed, model_of):
    """Trains the student of what `teacher_of` returns, or of the labels alone."""
    scheme = {}
    if teacher_of is not None:
        terms = [Term(losses.KLDivergence(given.temperature))]
        scheme = {"teacher": teacher_of(model_of), "terms": terms, "alpha": given.alpha}
    net = made(seed, network, shape, SMALL, name="student")
    return trained(title, net, data, given.epochs, seed, **scheme)


def arms(given, splits, data):
    """Returns `{name: Arm}`. Every arm is measured by its accuracy."""
    shape, (x, y) = splits["train"][0].shape[1:], splits[given.on]

    def measure(seed, model, model_of):
        return {"accuracy": accuracy(model, data(given.on))}

    def all_three(seed, model, model_of):
        return {"accuracy": mean_accuracy([model_of(f"{name} teacher") for name in TEACHERS], x, y)}

    def mixed(combine, model_of):
        members = {name: model_of(f"{name} teacher") for name in TEACHERS}
        return EnsembleTeacher(members, combine=combine)

    ways = {"labels": None, "one teacher": lambda model_of: model_of("first teacher")}
    ways |= {f"three teachers, {way}": functools.partial(mixed, way) for way in MIXTURES}
    return {
        **{f"{name} teacher": Arm(functools.partial(teacher, name, given, data, shape), measure)
           for name in TEACHERS},
        "three teachers together": Arm(None, all_three),
        **{f"student of {title}": Arm(functools.partial(student, f"student of {title}", way, given,
                                                        data, shape), measure)
           for title, way in ways.items()},
    }  # fmt: skip


def main(arguments=None):
    given = options("Compares students of one and of three teachers.", arguments,
                    out="runs/several_teachers", epochs=30, batch_size=32, alpha=0.5,
                    temperature=2.0)  # fmt: skip
    splits, data = images_of(given)
    compared(given, arms(given, splits, data))


if __name__ == "__main__":
    main()
