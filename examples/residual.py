"""Defines an experiment for `compress`, with a residual teacher and a small student of images."""

import keras
from images import batched, load
from keras import layers

from keras_distill import Experiment


def residual(shape, width=32, blocks=2):
    """Returns a residual network whose skip connections all have the same width.

    The names of the layers number the blocks, so that `models.shrink` finds them.
    """
    x = inputs = keras.Input(shape)
    x = layers.Conv2D(width, 3, padding="same", name="stem")(x)
    for index in range(blocks):
        before = x
        for part in ("a", "b"):
            x = layers.BatchNormalization(momentum=0.9, name=f"block_{index}_{part}_norm")(x)
            x = layers.ReLU(name=f"block_{index}_{part}_relu")(x)
            x = layers.Conv2D(width, 3, padding="same", name=f"block_{index}_{part}_conv")(x)
        x = layers.Add(name=f"block_{index}_add")([x, before])
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return keras.Model(inputs, layers.Dense(10)(layers.Dropout(0.3)(x)), name="teacher")


def small(shape, size=1.0):
    """Returns a convolutional network that halves the image first."""
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(round(12 * size), 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(round(16 * size), 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10),
        ],
        name="student",
    )


def experiment(data=None, tfds=None, limit=None, epochs=60, teacher_epochs=40, batch_size=32):
    """Returns the data, loss, optimizer and epochs, which `compress` does not change."""
    splits = load(data, tfds, limit)
    shape = splits["train"][0].shape[1:]
    steps = -(-len(splits["train"][0]) // batch_size)

    def adam(rate, epochs):
        return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps * epochs))

    return Experiment(
        "compressed",
        student=lambda size=1.0: small(shape, size),
        teacher=lambda: residual(shape),
        data=batched(splits, batch_size),
        optimizer=lambda: adam(5e-3, epochs),
        teacher_optimizer=lambda: adam(3e-3, teacher_epochs),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        epochs=epochs,
        teacher_epochs=teacher_epochs,
    )
