"""
# Born again, and self-training: the student of one generation teaches the next

A network teaches another one just like itself, with other first weights, and that one the next
(born-again networks: Furlanello et al., 2018, https://arxiv.org/abs/1805.04770). And the same with
images that have no labels: the teacher labels them, and the student learns from labels and answers
(self-training: Xie et al., 2020, https://arxiv.org/abs/1911.04252).

    python examples/born_again.py --data=DIR --limit=5000

`DIR` holds the four idx `.gz` files of Fashion-MNIST, `--tfds=fashion_mnist` fetches them;
without either, scikit-learn's 8 x 8 digits are taken. `--tiny` tries it all out in under a minute:
its numbers mean nothing.
"""

import functools

import keras
import numpy as np
import tensorflow as tf
from images import compared, images_of, options
from networks import made, network, trained

from keras_distill import Term, losses
from keras_distill.experiments import Arm

FILTERS = (8, 16, 32)
FIRST = "a fifth of the labels"  # the first teacher of those that label the rest

"""
## Generations

Each is a `Distiller` whose teacher is the model before it. The answer of all generations together,
the mean of their probabilities, is what the paper reports beside the last one's.
"""


def generation(number, given, data, shape, seed, model_of):
    """The first network, taught by labels alone, or a descendant, as an arm is trained."""
    scheme = {}
    if number:
        terms = [Term(losses.KLDivergence(given.temperature))]
        teacher = model_of(f"generation {number - 1}")
        scheme = {"teacher": teacher, "terms": terms, "alpha": given.alpha}
    net = made(seed + 1000 * number, network, shape, FILTERS)
    return trained(f"generation {number}", net, data, given.epochs, seed, **scheme)


def right(nets, images, labels):
    """The accuracy of the nets' mean probabilities, in percent."""
    outputs = [keras.ops.softmax(net.predict(images, batch_size=256, verbose=0)) for net in nets]
    return 100 * float(np.mean(np.argmax(sum(outputs), -1) == labels))


"""
## Images without labels

Of the training images only the first fifth keep their labels. The network that they train answers
for all others, and its student learns from both:

- hard: from the answers that the teacher is sure of, as if they were labels; a sample weight of
  zero leaves out the others;
- soft: from the teacher's softened outputs on every image. That term needs no labels, so
  `mask=None` lets it count where the sample weight, which is the labels', is zero.

The student is then the teacher of one more round.
"""


def with_labels(images, labels, weights, batch_size):
    """A function that, as `data` does, returns the training split in batches."""
    dataset = tf.data.Dataset.from_tensor_slices((images, labels, weights))
    return lambda split: dataset.shuffle(len(images)).batch(batch_size).prefetch(2)


def answers(teacher, images):
    """The teacher's likeliest classes and how sure it is of them."""
    shares = keras.ops.softmax(teacher.predict(images, batch_size=256, verbose=0))
    return np.argmax(shares, -1), np.max(shares, -1)


def self_trained(kind, number, given, splits, seed, model_of):
    """A student of labelled and unlabelled images, as an arm is trained."""
    images, labels = splits["train"]
    teacher = model_of(FIRST if number == 1 else f"{kind} answers, round {number - 1}")
    known = np.arange(len(images)) < len(images) // 5
    classes, sure = answers(teacher, images)
    sure = np.zeros(len(images), bool) if kind == "soft" else sure >= given.sure
    data = with_labels(images, np.where(known, labels, classes),
                       (known | sure).astype("float32"), given.batch_size)  # fmt: skip
    net = made(seed + 1000 * number, network, images.shape[1:], FILTERS)
    scheme = {}
    if kind == "soft":
        term = Term(losses.KLDivergence(given.temperature), mask=None)
        scheme = {"teacher": teacher, "terms": [term], "alpha": given.alpha}
    return trained(f"{kind} answers, round {number}", net, data, given.epochs, seed, **scheme)


def few_labels(given, splits, seed, model_of):
    """The network that sees a fifth of the images, five times as often."""
    images, labels = splits["train"]
    fifth = len(images) // 5
    few = with_labels(images[:fifth], labels[:fifth], np.ones(fifth, "float32"), given.batch_size)
    first = made(seed, network, images.shape[1:], FILTERS)
    return trained(FIRST, first, few, 5 * given.epochs, seed)


"""
## The result

All arms make the same number of updates: the network that sees a fifth of the images sees them
five times as often. The last student of two rounds is measured.
"""

def arms(given, splits, data):
    """`{name: Arm}`, measured by accuracy."""
    shape, (x, y) = splits["train"][0].shape[1:], splits[given.on]

    def one(seed, model, model_of):
        return {"accuracy": right([model], x, y)}

    def all_together(seed, model, model_of):
        return {"accuracy": right([model_of(name) for name in line], x, y)}

    line = {f"generation {n}": Arm(functools.partial(generation, n, given, data, shape), one)
            for n in range(given.generations)}  # fmt: skip
    found = {**line, "all generations together": Arm(None, all_together)}
    found[FIRST] = Arm(functools.partial(few_labels, given, splits), one)
    for kind in ("hard", "soft"):
        rounds = [functools.partial(self_trained, kind, n, given, splits) for n in (1, 2)]
        found[f"{kind} answers, round 1"] = Arm(rounds[0])
        found[f"and {kind} answers for the rest"] = Arm(rounds[1], one)
    return found


def main(arguments=None):
    given = options("Born-again networks and self-training.", arguments, out="runs/born_again",
                    alpha=0.5, temperature=2.0, generations=3, sure=0.9)  # fmt: skip
    splits, data = images_of(given)
    compared(given, arms(given, splits, data))


if __name__ == "__main__":
    main()
