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

import keras
import numpy as np
import tensorflow as tf
from arms import compared, images_of, made, options, trained
from networks import network

from keras_distill import Term, losses

FILTERS = (8, 16, 32)

"""
## Generations

Each is a `Distiller` whose teacher is the model before it. The answer of all generations together,
the mean of their probabilities, is what the paper reports beside the last one's.
"""


def generations(given, data, shape, seed):
    """The first network, taught by labels alone, and its descendants."""
    line = []
    for number in range(given.generations):
        teacher = line[-1] if line else None
        terms = [Term(losses.KLDivergence(given.temperature))] if line else None
        net = made(seed + 1000 * number, network, shape, FILTERS)
        line.append(net)
        trained(f"generation {number}", net, data, given.epochs, seed, teacher=teacher,
                terms=terms, alpha=given.alpha if line[1:] else None)  # fmt: skip
    return line


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


def self_trained(given, splits, shape, seed, teacher, number, soft):
    """A student of labelled and unlabelled images."""
    images, labels = splits["train"]
    known = np.arange(len(images)) < len(images) // 5
    classes, sure = answers(teacher, images)
    sure = np.zeros(len(images), bool) if soft else sure >= given.sure
    data = with_labels(images, np.where(known, labels, classes),
                       (known | sure).astype("float32"), given.batch_size)  # fmt: skip
    net = made(seed + 1000 * number, network, shape, FILTERS)
    scheme = {}
    if soft:
        term = Term(losses.KLDivergence(given.temperature), mask=None)
        scheme = {"teacher": teacher, "terms": [term], "alpha": given.alpha}
    kind = "soft" if soft else "hard"
    return trained(f"{kind} answers, round {number}", net, data, given.epochs, seed, **scheme)


def rounds(given, splits, shape, seed, teacher, soft):
    """The last student of two rounds."""
    for number in (1, 2):
        student = self_trained(given, splits, shape, seed, teacher, number, soft).student
        teacher = student
    return student


"""
## The result

All arms make the same number of updates: the network that sees a fifth of the images sees them
five times as often.
"""


def one_seed(given, splits, data, seed):
    """`{arm: {"accuracy": ...}}`."""
    images, labels = splits["train"]
    shape, (x, y), fifth = images.shape[1:], splits[given.on], len(images) // 5
    line = generations(given, data, shape, seed)
    rows = {f"generation {number}": right([net], x, y) for number, net in enumerate(line)}
    rows["all generations together"] = right(line, x, y)
    few = with_labels(images[:fifth], labels[:fifth], np.ones(fifth, "float32"), given.batch_size)
    first = made(seed, network, shape, FILTERS)
    trained("a fifth of the labels", first, few, 5 * given.epochs, seed)
    rows["a fifth of the labels"] = right([first], x, y)
    for kind, soft in (("hard", False), ("soft", True)):
        student = rounds(given, splits, shape, seed, first, soft)
        rows[f"and {kind} answers for the rest"] = right([student], x, y)
    return {arm: {"accuracy": value} for arm, value in rows.items()}


def main(arguments=None):
    given = options("Born-again networks and self-training.", arguments, out="runs/born_again",
                    alpha=0.5, temperature=2.0, generations=3, sure=0.9)  # fmt: skip
    splits, data = images_of(given)
    compared(given, lambda seed: one_seed(given, splits, data, seed))


if __name__ == "__main__":
    main()
