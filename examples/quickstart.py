"""
# Quickstart: distill a digit classifier

This example shows what distillation gains on a task that runs in two minutes. A convolutional
teacher of 56,394 parameters learns scikit-learn's handwritten digits, which are images of 8 x 8
pixels. Then a student of 1,446 parameters is trained twice for each of three seeds, alone on the
labels and distilled from the teacher. Both times the student has the same initial weights, the same
order of the data and the same number of epochs.

    python -m keras_distill train --experiment=examples/quickstart.py --out=runs/quickstart

These are the mean and the standard deviation of the test accuracy over the seeds:

    teacher    98.50%
    alone      97.22% +- 0.59
    distilled  97.94% +- 0.42    and a third of the divergence from the teacher

The run takes about two minutes of CPU time.

`--data=DIR` reads the four idx `.gz` files of Fashion-MNIST from the folder `DIR`, and
`--tfds=fashion_mnist` downloads Fashion-MNIST. `examples/fashion_mnist.py` has models and settings
for these images.

The split of the digits is fixed. It has 797 images for training, 400 for validation and 600 for the
test. Student, teacher, epochs, learning rate, temperature and alpha were chosen on the validation
split. `docs/results.md` says how, and which choices make distillation useless or harmful.
"""

import keras
from images import batched, load
from keras import layers

from keras_distill import Experiment, Term, losses

"""
## The two models

Both models return logits. Their last layer has no softmax, so that a temperature can soften the
outputs.
"""


def models(shape):
    """Returns the functions that make the teacher and the student for images of `shape`."""

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

The labels contribute half of the loss. The divergence from the teacher's outputs, softened by the
temperature, contributes the other half. The learning rate decays along a cosine. Soft targets need
enough epochs for the student to settle.
"""


def experiment(
    data=None, tfds=None, seeds=3, epochs=None, teacher_epochs=None, temperature=4.0, alpha=0.5,
    batch_size=32, limit=None,
):  # fmt: skip
    splits = load(data, tfds, limit)
    few = not (data or tfds)  # an epoch has 25 steps for the digits, 1,719 for Fashion-MNIST
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
