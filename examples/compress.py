"""
# Compress: from a teacher to a small student by one call

People want a model that is small and fast enough and has lost nothing. `compress` looks for it: it
proposes students, drops those that cost too much before any training, chooses how to distill,
searches, and trains the leader over seeds beside the same student without a teacher. It returns the
better of the two and says which it was.

    python examples/compress.py --keep=0.99 --out=runs/compress

finds the smallest student that keeps 99% of the teacher's validation accuracy.
`--max-flops=100000` finds the best one within a budget instead. `--data=DIR` takes the four idx
`.gz` files of Fashion-MNIST, `--tfds=fashion_mnist` fetches them; without either, scikit-learn's
8 x 8 digits are taken. `--tiny` tries it all out in under a minute: its numbers mean nothing.
"""

import argparse

import keras
from images import batched, load
from keras import layers

from keras_distill import Experiment, compress

"""
## The teacher

A residual network. Its blocks are named by number, `block_0_...` and `block_1_...`: by these names
`models.shrink` finds them, and can leave some out. It can also make the network narrower: every
skip then keeps one choice of channels at both ends, those that matter most on the training data.
"""


def residual(shape, width=32, blocks=2):
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


"""
## A student of our own

What is cut from the teacher is not always best: a convolution that halves the image has a quarter
of the operations. The function takes a `size`, so `compress` tries it large and small.
"""


def small(shape, size=1.0):
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


"""
## The experiment

It says what `compress` may not choose: the data, the loss, the optimizer and for how long is
trained. Soft targets take more epochs than labels, and a rate that comes to rest. The function is
found by its name: `compress` reads this file, as `keras-distill compress --experiment=FILE` does.
"""


def experiment(data=None, tfds=None, limit=None, epochs=60, teacher_epochs=40, batch_size=32):
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


"""
## The search

Everything that is whole is on disk: after a kill, `--resume` goes on. The teacher answers the
training split once, and all students learn from these answers.
"""


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--data", help="the folder of the idx files")
    parser.add_argument("--tfds", help="a name in TensorFlow Datasets")
    parser.add_argument("--limit", type=int, help="only the first training images")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--teacher-epochs", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3, help="seeds of the last comparison")
    parser.add_argument("--keep", type=float, help="the share of the teacher's accuracy to keep")
    parser.add_argument("--max-flops", type=float, help="the most operations of a prediction")
    parser.add_argument("--out", default="runs/compress", help="where everything is written")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--tiny", action="store_true", help="one epoch on few examples")
    given = parser.parse_args(arguments)
    if given.tiny:
        given.limit, given.epochs, given.teacher_epochs, given.repeats = 64, 1, 1, 1
    named = ("data", "tfds", "limit", "epochs", "teacher_epochs")
    options = {name: getattr(given, name) for name in named if getattr(given, name) is not None}
    return compress(
        __file__, given.out, options=options, keep=given.keep, max_flops=given.max_flops,
        repeats=given.repeats, sizes=[1.0] if given.tiny else [1.0, 0.7, 0.5], resume=given.resume,
    )  # fmt: skip


"""
## What it says

The last lines are a table of teacher, student alone and student distilled, with what each costs,
and a sentence: whether the teacher helped, by how much over pairs of seeds, and how sure that is.
If it did not help, the student alone is exported, and the sentence says what to try next.

`student.keras` is the student, `pareto.png` the picture of all that were trained to their end, and
`final/report.html` the comparison on the test split, which nothing was chosen by.
"""

if __name__ == "__main__":
    main()
