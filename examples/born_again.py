"""
# Born-again networks and self-training

This example distills over generations in two ways.

- Born-again networks (Furlanello et al., 2018, https://arxiv.org/abs/1805.04770): a network teaches
  a network of the same architecture with different initial weights. That network teaches the next
  one.
- Self-training (Xie et al., 2020, https://arxiv.org/abs/1911.04252): a teacher labels images that
  have no labels. The student learns from the true labels and from the teacher's answers.

Neither needs a larger teacher, and self-training also uses images that nobody has labelled.

    python examples/born_again.py --data=DIR --limit=5000

The default data are scikit-learn's 8 x 8 digits. `--data=DIR` reads the four idx `.gz` files of
Fashion-MNIST from the folder `DIR`, and `--tfds=fashion_mnist` downloads Fashion-MNIST. `--tiny`
runs everything in under a minute, with numbers that mean nothing.
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
FIRST = "a fifth of the labels"  # the network that labels the other images first

"""
## Generations

Each generation is trained by a `Distiller` whose teacher is the generation before it. The example
also measures all generations together by the mean of their probabilities, as the paper does.
"""


def generation(number, given, data, shape, seed, model_of):
    """Trains one generation. The first learns from labels alone, the others also from a teacher."""
    scheme = {}
    if number:
        terms = [Term(losses.KLDivergence(given.temperature))]
        teacher = model_of(f"generation {number - 1}")
        scheme = {"teacher": teacher, "terms": terms, "alpha": given.alpha}
    net = made(seed + 1000 * number, network, shape, FILTERS)
    return trained(f"generation {number}", net, data, given.epochs, seed, **scheme)


def mean_accuracy(nets, images, labels):
    """Returns the accuracy of the networks' mean probabilities in percent."""
    outputs = [keras.ops.softmax(net.predict(images, batch_size=256, verbose=0)) for net in nets]
    return 100 * float(np.mean(np.argmax(sum(outputs), -1) == labels))


"""
## Images without labels

Only the first fifth of the training images keep their labels. A network learns from these images
and then answers for all others. Its student learns from the labels and from these answers, which
come in two kinds:

- Hard answers are the classes of which the teacher is sure. They are used as labels. A sample
  weight of zero leaves out the images of which it is not sure.
- Soft answers are the teacher's softened outputs for every image. Their term needs no labels. The
  sample weight says which images have labels, so the term ignores it with `mask=None`.

The student then teaches one more round.
"""


def with_labels(images, labels, weights, batch_size):
    """Returns a function that gives the training split in batches, as `data` does."""
    dataset = tf.data.Dataset.from_tensor_slices((images, labels, weights))
    return lambda split: dataset.shuffle(len(images)).batch(batch_size).prefetch(2)


def answers(teacher, images):
    """Returns the teacher's most likely classes and their probabilities."""
    shares = keras.ops.softmax(teacher.predict(images, batch_size=256, verbose=0))
    return np.argmax(shares, -1), np.max(shares, -1)


def self_trained(kind, number, given, splits, seed, model_of):
    """Trains one student on the images with labels and on those without."""
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
    """Trains a network on a fifth of the images for five times as many epochs."""
    images, labels = splits["train"]
    fifth = len(images) // 5
    few = with_labels(images[:fifth], labels[:fifth], np.ones(fifth, "float32"), given.batch_size)
    first = made(seed, network, images.shape[1:], FILTERS)
    return trained(FIRST, first, few, 5 * given.epochs, seed)


"""
## The result

All networks make the same number of updates. The network that sees a fifth of the images therefore
sees each image five times as often. The table shows the student of the second round.
"""


def arms(given, splits, data):
    """Returns `{name: Arm}`. Every arm is measured by its accuracy."""
    shape, (x, y) = splits["train"][0].shape[1:], splits[given.on]

    def measure(seed, model, model_of):
        return {"accuracy": mean_accuracy([model], x, y)}

    def all_together(seed, model, model_of):
        return {"accuracy": mean_accuracy([model_of(name) for name in generations], x, y)}

    generations = {
        f"generation {n}": Arm(functools.partial(generation, n, given, data, shape), measure)
        for n in range(given.generations)
    }
    found = {**generations, "all generations together": Arm(None, all_together)}
    found[FIRST] = Arm(functools.partial(few_labels, given, splits), measure)
    for kind in ("hard", "soft"):
        rounds = [functools.partial(self_trained, kind, n, given, splits) for n in (1, 2)]
        found[f"{kind} answers, round 1"] = Arm(rounds[0])
        found[f"and {kind} answers for the rest"] = Arm(rounds[1], measure)
    return found


def main(arguments=None):
    given = options("Born-again networks and self-training.", arguments, out="runs/born_again",
                    alpha=0.5, temperature=2.0, generations=3, sure=0.9)  # fmt: skip
    splits, data = images_of(given)
    compared(given, arms(given, splits, data))


if __name__ == "__main__":
    main()
