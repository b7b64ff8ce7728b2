"""
# Quickstart: distill a digit classifier

A convolutional teacher of 56,394 parameters learns scikit-learn's handwritten digits, images of
8 x 8 pixels. Then one student of 1,446 parameters is trained twice for each of three seeds, with
the same initial weights, the same order of the data and the same epochs: alone on the labels, and
distilled from the teacher.

    python -m keras_distill train --experiment=examples/quickstart.py --out=runs/quickstart

On the test split, mean and standard deviation over the seeds:

    teacher    98.50%
    alone      97.22% +- 0.59
    distilled  97.94% +- 0.42    and a third of the divergence from the teacher

It takes about two minutes of CPU time.

`--data=DIR` takes the idx `.gz` files of Fashion-MNIST instead, `--tfds=fashion_mnist` fetches it;
`examples/fashion_mnist.py` has models and settings made for it.
The split of the digits is fixed: 797 images for training, 400 for validation, 600 for the test.
Student, teacher, epochs, learning rate, temperature and alpha were chosen on the validation split;
`docs/results.md` says how, and which choices make distilling useless or harmful.
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
                layers.MaxPooling2D(),
                layers.Flatten(),
                layers.Dense(10),
            ],
            name="student",
        )

    return teacher, student


"""
## The experiment

Half of the loss is the labels', half is the divergence from the teacher's outputs, softened by
the temperature. The learning rate decays along a cosine: soft targets need the budget in which a
student comes to rest.
"""


def experiment(
    data=None, tfds=None, seeds=3, epochs=None, teacher_epochs=None, temperature=4.0, alpha=0.5,
    batch_size=32, limit=None,
):  # fmt: skip
    splits = load(data, tfds, limit)
    few = not (data or tfds)  # the digits: an epoch has 25 steps, one of Fashion-MNIST 1,719
    epochs = epochs or (150 if few else 15)
    teacher_epochs = teacher_epochs or (60 if few else 10)
    teacher, student = models(splits["train"][0].shape[1:])
    steps = -(-len(splits["train"][0]) // batch_size)

    def adam(rate, epochs):
        return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps * epochs))

    return Experiment(
        "digits" if few else "fashion_mnist",
        student=student,
        teacher=teacher,
        data=batched(splits, batch_size),
        terms=lambda student, teacher: [Term(losses.KLDivergence(temperature=temperature))],
        alpha=alpha,
        optimizer=lambda: adam(1e-2, epochs),
        teacher_optimizer=lambda: adam(3e-3, teacher_epochs),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        epochs=epochs,
        teacher_epochs=teacher_epochs,
        seeds=seeds,
    )


if __name__ == "__main__":
    experiment().run("runs/quickstart")
