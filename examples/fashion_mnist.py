r"""
# Fashion-MNIST: a 5,000-parameter student of a convolutional teacher

Fashion-MNIST has 60,000 grey training images of 28 x 28 pixels in ten classes of clothing, and
10,000 test images. This example first trains a convolutional teacher of 240,000 parameters. Then it
trains a student with a forty-eighth of these parameters twice, alone on the labels and distilled.
Both times the student has the same initial weights, the same order of the data and twenty epochs.

    python -m keras_distill train --experiment=examples/fashion_mnist.py \
        --data=DIR --out=runs/fashion_mnist --set seeds=1

`--data=DIR` reads the four idx `.gz` files of Fashion-MNIST from the folder `DIR`, and
`--tfds=fashion_mnist` downloads Fashion-MNIST. The last 5,000 training images are the validation
split. It decides which student is exported.
"""

import keras
from images import batched, load
from keras import layers

from keras_distill import Experiment, Term, losses

BATCH_SIZE = 128

"""
## The teacher

The teacher pools early, so that it is fast on a CPU. Batch normalization, dropout and a learning
rate with cosine decay bring its accuracy above 93%. A layer of the model flips the images at
random, and it does so only in training.
"""


def convolution(filters):
    return [
        layers.Conv2D(filters, 3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
    ]


def teacher():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.RandomFlip("horizontal"),
            *convolution(32),
            layers.MaxPooling2D(),
            *convolution(64),
            layers.MaxPooling2D(),
            *convolution(128),
            *convolution(128),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.3),
            layers.Dense(10),
        ],
        name="teacher",
    )


"""
## The student

The student has three small convolutions. It returns logits, as the teacher does, and its learning
rate decays in the same way. `--set width=3.5` makes a student of 48,000 parameters.
"""


def student(width=1.0):
    few, many = int(8 * width), int(16 * width)
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(few, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(many, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(many, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10),
        ],
        name="student",
    )


"""
## The experiment

The labels contribute half of the loss. The divergence from the teacher at temperature 2 contributes
the other half.
"""


def experiment(
    data=None,
    tfds="fashion_mnist",
    seeds=1,
    epochs=20,
    teacher_epochs=24,
    temperature=2.0,
    alpha=0.5,
    width=1.0,
    limit=None,
):
    splits = load(data, tfds, limit)
    steps = -(-len(splits["train"][0]) // BATCH_SIZE)

    def adam(epochs):
        decay = keras.optimizers.schedules.CosineDecay(3e-3, steps * epochs, alpha=0.01)
        return keras.optimizers.Adam(decay)

    return Experiment(
        "fashion_mnist",
        student=lambda: student(width),
        teacher=teacher,
        data=batched(splits, BATCH_SIZE),
        terms=[Term(losses.KLDivergence(temperature=temperature))],
        alpha=alpha,
        optimizer=lambda: adam(epochs),
        teacher_optimizer=lambda: adam(teacher_epochs),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        epochs=epochs,
        teacher_epochs=teacher_epochs,
        seeds=seeds,
    )


if __name__ == "__main__":
    experiment().run("runs/fashion_mnist")
