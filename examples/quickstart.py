"""
# Quickstart: distill a digit classifier

A convolutional teacher of 56,394 parameters learns scikit-learn's handwritten digits, images of
8 x 8 pixels. Then one student of 1,086 parameters is trained twice for each of three seeds, with
the same initial weights, the same order of the data and the same epochs: alone on the labels, and
distilled from the teacher.

    python -m keras_distill train --experiment=examples/quickstart.py --out=runs/quickstart

`--data=DIR` takes the idx `.gz` files of Fashion-MNIST instead, `--tfds=fashion_mnist` fetches it.
The split of the digits is fixed: 797 images for training, 400 for validation, 600 for the test.
Epochs, learning rate, temperature and alpha were chosen on the validation split, where T = 2 and
alpha = 0.5 came out a little above the labels alone, and T = 4 or 8 clearly below them.
"""

import keras
from images import batched, load
from keras import layers

from keras_distill import Experiment, Term, losses

"""
## The two models

Both return logits: the last layer has no softmax, so that the outputs can be softened.
"""


def models(shape):
    """The functions that make the teacher and the student for images of `shape`."""

    def teacher():
        return keras.Sequential(
            [
                keras.Input(shape),
                layers.Conv2D(32, 3, padding="same", activation="relu"),
                layers.Conv2D(64, 3, padding="same", activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(64, 3, padding="same", activation="relu"),
                layers.GlobalAveragePooling2D(),
                layers.Dropout(0.3),
                layers.Dense(10),
            ],
            name="teacher",
        )

    def student():
        return keras.Sequential(
            [
                keras.Input(shape),
                layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
                layers.Conv2D(12, 3, padding="same", activation="relu"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(10),
            ],
            name="student",
        )

    return teacher, student


"""
## The experiment

Half of the loss is the labels', half is the divergence from the teacher's outputs, softened by
the temperature.
"""


def experiment(
    data=None, tfds=None, seeds=3, epochs=60, teacher_epochs=20, temperature=2.0, alpha=0.5,
    batch_size=32, limit=None,
):  # fmt: skip
    splits = load(data, tfds, limit)
    teacher, student = models(splits["train"][0].shape[1:])
    return Experiment(
        "digits" if not (data or tfds) else "fashion_mnist",
        student=student,
        teacher=teacher,
        data=batched(splits, batch_size),
        terms=lambda student, teacher: [Term(losses.KLDivergence(temperature=temperature))],
        alpha=alpha,
        optimizer=lambda: keras.optimizers.Adam(5e-3),
        teacher_optimizer=lambda: keras.optimizers.Adam(3e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        epochs=epochs,
        teacher_epochs=teacher_epochs,
        seeds=seeds,
    )


if __name__ == "__main__":
    experiment().run("runs/quickstart")
