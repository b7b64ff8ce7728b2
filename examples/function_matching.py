"""
# Function matching: a patient teacher that sees what its student sees

A teacher is a function, and can be asked about any image. Beyer et al., 2022
(https://arxiv.org/abs/2106.05237) distill by matching functions: teacher and student see the very
same view of an image, moved at random; views are mixed with each other, so that they lie between
the images, too; no labels are used; and the training is very long. Here each part is left out in
turn.

    python examples/function_matching.py

Scikit-learn's 8 x 8 digits are taken; `--data=DIR` takes the four idx `.gz` files of Fashion-MNIST,
and `--tfds=fashion_mnist` fetches them. `--tiny` tries it all out in under a minute: its numbers
mean nothing.
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

A view is an image that is moved by an eighth of its width at most. Mixed views are weighted means
of two, with a share that is drawn for each. What makes views stands in the data and not in the
student, so that the teacher, which receives the same batch, sees the same.
"""


def moved(images):
    """Images of a batch, each moved at random; what comes in at the edge is black."""
    batch, (height, width) = tf.shape(images)[0], images.shape[1:3]
    most = max(1, height // 8)
    padded = tf.pad(images, [[0, 0], [most, most], [most, most], [0, 0]])
    down, right = (tf.random.uniform((batch, 1), 0, 2 * most + 1, tf.int32) for _ in range(2))
    rows = tf.gather(padded, down + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(rows, right + tf.range(width), axis=2, batch_dims=1)


def mixed(images):
    """Each image of a batch, mixed with another one of it."""
    share = tf.random.uniform((tf.shape(images)[0], 1, 1, 1))
    return share * images + (1 - share) * tf.reverse(images, [0])


"""
## The arms

- labels: moved images with the labels of the images;
- fixed teacher: the student sees moved images, but the teacher has answered once, for the images as
  they are. It costs little, and says what is not true of the view;
- same view: the teacher answers for the view that the student sees;
- same view, mixed: function matching.

The last three use no labels: `alpha` is 1. Each arm is trained for `--epochs`, and for `--long`
times as many.
"""

ARMS = ("labels", "fixed teacher", "same view", "same view, mixed")


def views(way, teacher, splits, batch_size):
    """A function that, as `data` does, returns the training split in batches of an arm."""
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
    """One student, as an arm is trained."""
    teacher, scheme = model_of("teacher"), {}
    if way != "labels":
        source = CachedTeacher() if way == "fixed teacher" else teacher
        terms = [Term(losses.KLDivergence(given.temperature))]
        scheme = {"teacher": source, "terms": terms, "alpha": 1.0}
    net = made(seed, network, splits["train"][0].shape[1:], SMALL, name="student")
    keras.utils.set_random_seed(seed)  # of the views
    batches = views(way, teacher, splits, given.batch_size)
    return trained(f"{way}, {epochs} epochs", net, batches, epochs, seed, **scheme)


def arms(given, splits, data):
    """`{name: Arm}`, measured by accuracy."""

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
    given = options("Function matching, and what each part of it gives.", arguments,
                    out="runs/function_matching", epochs=20, long=5, teacher_epochs=60,
                    batch_size=32, temperature=1.0)  # fmt: skip
    if given.tiny:
        given.long, given.teacher_epochs = 1, 1
    splits, data = images_of(given)
    compared(given, arms(given, splits, data))


if __name__ == "__main__":
    main()
