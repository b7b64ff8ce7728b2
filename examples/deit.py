"""
# A vision transformer with a distillation token

A vision transformer has to learn from data what a convolution has by construction, and so needs
many images. A convolutional teacher gives it what it lacks (DeiT: Touvron et al., 2021,
https://arxiv.org/abs/2012.12877). Beside the class token, whose answer the labels teach, the
transformer gets a distillation token, whose answer the teacher teaches. It answers by the mean of
both. The paper found the teacher's hard decision to teach more than its softened output.

    python examples/deit.py

Scikit-learn's 8 x 8 digits are taken, in 16 patches; `--data=DIR --patch=4` takes the four idx
`.gz` files of Fashion-MNIST, in 49, and `--tfds=fashion_mnist` fetches them. `--tiny` tries it all
out in under a minute: its numbers mean nothing.
"""

import functools

import keras
import numpy as np
from images import compared, images_of, options
from keras import layers, ops
from networks import LOSS, accuracy, made, network, trained

from keras_distill import Term, losses
from keras_distill.experiments import Arm

"""
## The transformer

The image is cut into patches, each of which becomes a vector. In front of them stand the learned
vectors of one or two tokens. Every token has a place, whose vector is learned, too.
"""


@keras.saving.register_keras_serializable(package="deit")
class Tokens(layers.Layer):
    """Puts learned tokens before the patches, and adds a learned vector for each place.

    Args:
        count: how many tokens.
    """

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def build(self, shape):
        _, patches, width = shape
        self.tokens = self.add_weight(shape=(1, self.count, width), initializer="random_normal",
                                      name="tokens")  # fmt: skip
        self.places = self.add_weight(shape=(1, patches + self.count, width),
                                      initializer="random_normal", name="places")  # fmt: skip

    def call(self, patches):
        tokens = ops.repeat(self.tokens, ops.shape(patches)[0], axis=0)
        return ops.concatenate([tokens, patches], axis=1) + self.places

    def get_config(self):
        return {**super().get_config(), "count": self.count}


def transformer(shape, patch, width=48, depth=3, heads=3, tokens=("class", "distillation")):
    """A transformer with an output for each of its tokens, `{token: logits}`."""
    inputs = keras.Input(shape)
    x = layers.Conv2D(width, patch, strides=patch, name="patches")(inputs)
    x = Tokens(len(tokens), name="tokens")(layers.Reshape((-1, width))(x))
    for _ in range(depth):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(heads, width // heads)(y, y)
        y = layers.Dense(2 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(width)(y)
    x = layers.LayerNormalization()(x)
    outputs = {
        token: layers.Dense(10, name=token)(x[:, place]) for place, token in enumerate(tokens)
    }
    return keras.Model(inputs, outputs, name="transformer")


"""
## The losses

The labels teach the class token only: the compiled loss names its output. The term names the output
that the teacher teaches. A hard decision is the class that the teacher finds likeliest, a label
that costs nothing. The package has no loss of that name, and a loss is a few lines.
"""


@keras.saving.register_keras_serializable(package="deit")
class HardDecision(losses.DistillationLoss):
    """The cross-entropy of the student with the class that the teacher finds likeliest."""

    def call(self, y_true, y_pred):
        classes = ops.argmax(y_true, axis=-1)
        return ops.sparse_categorical_crossentropy(classes, y_pred, from_logits=True)


ARMS = {  # the tokens, which of them the teacher teaches, and whether by its hard decision
    "labels": (("class",), None, False),
    "class token, soft": (("class",), "class", False),
    "two tokens, soft": (("class", "distillation"), "distillation", False),
    "two tokens, hard": (("class", "distillation"), "distillation", True),
}

"""
## The arms

The teacher is a convolutional network. All transformers see the same order of the data, and those
with the same tokens begin with the same weights.
"""


def student(title, given, data, shape, seed, model_of):
    """One transformer, as an arm is trained."""
    tokens, taught, hard = ARMS[title]
    net = made(seed, transformer, shape, given.patch, tokens=tokens)
    scheme = {}
    if taught:
        loss = HardDecision() if hard else losses.KLDivergence(given.temperature)
        terms = [Term(loss, student=f"output:{taught}", name="teacher")]
        scheme = {"teacher": model_of("teacher"), "terms": terms, "alpha": given.alpha}
    return trained(title, net, data, given.epochs, seed, loss={"class": LOSS}, **scheme)


def teacher(given, data, shape, seed, model_of):
    """The convolutional network, as an arm is trained."""
    return trained("teacher", made(seed, network, shape), data, given.teacher_epochs, seed)


def right(model, images, labels):
    """The accuracy of the mean of the tokens' probabilities, in percent."""
    outputs = model.predict(images, batch_size=256, verbose=0)
    mean = sum(ops.convert_to_numpy(ops.softmax(logits)) for logits in outputs.values())
    return 100 * float(np.mean(mean.argmax(-1) == labels))


def arms(given, splits, data):
    """`{name: Arm}`, measured by accuracy."""
    shape, (x, y) = splits["train"][0].shape[1:], splits[given.on]

    def of_teacher(seed, model, model_of):
        return {"accuracy": accuracy(model, data(given.on)), "parameters": model.count_params()}

    def of_student(seed, model, model_of):
        return {"accuracy": right(model, x, y), "parameters": model.count_params()}

    students = {title: Arm(functools.partial(student, title, given, data, shape), of_student)
                for title in ARMS}  # fmt: skip
    taught = Arm(functools.partial(teacher, given, data, shape), of_teacher)
    return {"teacher": taught, **students}


def main(arguments=None):
    given = options("A vision transformer with a distillation token.", arguments, out="runs/deit",
                    epochs=30, teacher_epochs=15, batch_size=32, alpha=0.5, temperature=2.0,
                    patch=2)  # fmt: skip
    given.teacher_epochs = min(given.teacher_epochs, given.epochs)
    splits, data = images_of(given)
    compared(given, arms(given, splits, data))


if __name__ == "__main__":
    main()
