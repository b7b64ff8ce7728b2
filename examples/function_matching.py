"""
# Function matching: teacher and student see the same view

A teacher is a function, so it can answer for any image. Beyer et al., 2022
(https://arxiv.org/abs/2106.05237) distill by matching functions. Their recipe has four parts:

- Teacher and student see the same random view of an image.
- Views are mixed with each other, so that the student also learns between the images.
- No labels are used.
- The training is very long.

This example leaves out one part after the other, to show what each part contributes.

    python examples/function_matching.py --seeds=1

It took 108 seconds of CPU time on the default data. The accuracy on the 600 test images of one
seed, in percent:

| | short | long |
|---|---|---|
| teacher | - | 98.67 |
| labels | 79.50 | 92.67 |
| fixed teacher | 78.33 | 93.83 |
| same view | 77.00 | 94.33 |
| same view, mixed | 61.00 | 91.83 |

The length of the training matters most. The long training with the same view gains 1.7 points over
the labels. Mixed views need a longer training than this one. The standard error of an accuracy is
one point here.

The default data are scikit-learn's 8 x 8 digits. `--data=DIR` reads the four idx `.gz` files of
Fashion-MNIST from the folder `DIR`, and `--tfds=fashion_mnist` downloads Fashion-MNIST. `--tiny`
runs everything in under a minute, with numbers that mean nothing.
"""

import functools

import keras
import tensorflow as tf
from images import compared, images_of, options
from networks import accuracy, made, network, trained

from keras_distill import CachedTeacher, Supervision, Term, losses
from keras_distill.data import without_autotune
from keras_distill.experiments import Arm

SMALL, BIG = (4, 8, 16), (16, 32, 64)

"""
## Views

A view is an image that is moved by at most an eighth of its width. A mixed view is the weighted
mean of two views, with a random weight. The dataset makes the views, and not the student, so that
the teacher sees the same batch as the student.
"""


def moved(images):
    """Moves each image of a batch at random. The pixels that come in at the edge are black."""
    batch, (height, width) = tf.shape(images)[0], images.shape[1:3]
    most = max(1, height // 8)
    padded = tf.pad(images, [[0, 0], [most, most], [most, most], [0, 0]])
    down, right = (tf.random.uniform((batch, 1), 0, 2 * most + 1, tf.int32) for _ in range(2))
    rows = tf.gather(padded, down + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(rows, right + tf.range(width), axis=2, batch_dims=1)


def mixed(images):
    """Mixes each image of a batch with another image of the batch."""
    share = tf.random.uniform((tf.shape(images)[0], 1, 1, 1))
    return share * images + (1 - share) * tf.reverse(images, [0])


"""
## The comparison

The example compares four ways of training:

- "labels" trains the student on moved images and their labels.
- "fixed teacher" shows the student moved images, but the teacher has answered once for the images
  before they moved. This is cheap, but these answers are not those for the view.
- "same view" lets the teacher answer for the view that the student sees.
- "same view, mixed" is function matching.

The last three use no labels, so `alpha` is 1. Each student is trained for `--epochs` epochs, and
once more for `--long` times as many.
"""

ARMS = ("labels", "fixed teacher", "same view", "same view, mixed")


def views(way, teacher, splits, batch_size):
    """Returns a function that gives the training split in batches of an arm, as `data` does."""
    images, labels = splits["train"]
    if way == "fixed teacher":
        answers = teacher.predict(images, batch_size=256, verbose=0)
        labels = Supervision(labels=labels, targets={"output": answers})
    rows = tf.data.Dataset.from_tensor_slices((images, labels))

    def view(images, labels):
        images = moved(images)
        return (mixed(images) if "mixed" in way else images), labels

    batches = rows.shuffle(len(images)).batch(batch_size).map(view)
    return lambda split: without_autotune(batches.prefetch(2))


def student(way, epochs, given, splits, seed, model_of):
    """Trains one student."""
    teacher, scheme = model_of("teacher"), {}
    if way != "labels":
        source = CachedTeacher() if way == "fixed teacher" else teacher
        terms = [Term(losses.KLDivergence(given.temperature))]
        scheme = {"teacher": source, "terms": terms, "alpha": 1.0}
    net = made(seed, network, splits["train"][0].shape[1:], SMALL, name="student")
    keras.utils.set_random_seed(seed)  # for the views
    batches = views(way, teacher, splits, given.batch_size)
    return trained(f"{way}, {epochs} epochs", net, batches, epochs, seed, **scheme)


def arms(given, splits, data):
    """Returns `{name: Arm}`. Every arm is measured by its accuracy."""

    def teacher(seed, model_of):
        net = made(seed, network, splits["train"][0].shape[1:], BIG, name="teacher")
        batches = views("labels", None, splits, given.batch_size)
        return trained("teacher", net, batches, given.teacher_epochs, seed)

    def measure(seed, model, model_of):
        return {"accuracy": accuracy(model, data(given.on))}

    found = {"teacher": Arm(teacher, measure)}
    for way in ARMS:
        for length, epochs in (("short", given.epochs), ("long", given.long * given.epochs)):
            train = functools.partial(student, way, epochs, given, splits)
            found[f"{way}, {length}"] = Arm(train, measure)
    return found


def main(arguments=None):
    given = options("Compares the parts of function matching.", arguments,
                    out="runs/function_matching", epochs=20, long=5, teacher_epochs=60,
                    batch_size=32, temperature=1.0)  # fmt: skip
    if given.tiny:
        given.long, given.teacher_epochs = 1, 1
    splits, data = images_of(given)
    compared(given, arms(given, splits, data))


if __name__ == "__main__":
    main()
