"""
# Networks that learn together: mutual and online distillation

A student does not need a teacher that was trained before it. This example makes two comparisons:

- In mutual learning, two small networks learn from the labels and from each other (Zhang et al.,
  2018, https://arxiv.org/abs/1706.00384). The example compares them with the same two networks,
  each trained alone.
- In online distillation, the teacher is trained together with its student, in the same steps (Anil
  et al., 2018, https://arxiv.org/abs/1804.03235). The example compares this with a teacher that is
  trained first, at the same total compute.

    python examples/mutual_learning.py --data=DIR --limit=5000

The default data are scikit-learn's 8 x 8 digits. `--data=DIR` reads the four idx `.gz` files of
Fashion-MNIST from the folder `DIR`, and `--tfds=fashion_mnist` downloads Fashion-MNIST. `--tiny`
runs everything in under a minute, with numbers that mean nothing.
"""

import functools

import numpy as np
import tensorflow as tf
from images import compared, images_of, options
from networks import accuracy, made, network, trained

from keras_distill import Term, losses, models, recipes
from keras_distill.experiments import Arm

SMALL, BIG = (4, 8, 16), (16, 32, 64)

"""
## Peers

A cohort is one Keras model with an output for each member. All members are trained in the same
steps. Each peer starts from the same weights as when it is trained alone.
"""


def peers(shape, seed):
    """Returns two small networks with different initial weights."""
    return {
        name: made(seed + apart, network, shape, SMALL, name=f"{name}_network")
        for apart, name in ((0, "first"), (1000, "second"))
    }


def peer_alone(name, given, data, shape, seed, model_of):
    """Trains one of the two on the labels alone."""
    return trained(f"{name} alone", peers(shape, seed)[name], data, given.epochs, seed)


def peers_mutual(given, data, shape, seed, model_of):
    """Trains the two together. Labels and peers have the same weight."""
    net = models.cohort(**peers(shape, seed))
    terms = recipes.mutual("first", "second", temperature=given.temperature)
    return trained("mutual", net, data, given.epochs, seed, terms=terms, alpha=given.alpha)


"""
## Online and offline at equal compute

Compute is counted as usual. A backward pass costs twice as many multiplications as a forward pass.
With `T` and `S` the operations of one forward pass of teacher and student, the costs are

    online, E epochs:    E * (3 T + 3 S)      both are trained
    offline, teacher:    E' * 3 T             it is trained first
    offline, student:    E * (T + 3 S)        it is trained, the teacher runs

They are equal for `E' = 2/3 E`. The offline teacher therefore gets two thirds of the epochs, and
its student gets as many as the online student. (With cached targets the teacher would run once
instead of `E` times, and could get nearly `E` epochs.) The student and its initial weights are
those of the first peer.
"""


def pair(shape, seed):
    """Returns a teacher, and the first small peer as its student."""
    return {
        "teacher": made(seed, network, shape, BIG, name="big_network"),
        "student": peers(shape, seed)["first"],
    }


def online(given, data, shape, seed, model_of):
    """Trains teacher and student in the same steps."""
    net = models.cohort(**pair(shape, seed))
    terms = recipes.online(temperature=given.temperature)
    return trained("online", net, data, given.epochs, seed, terms=terms, alpha=given.alpha)


def teacher_epochs(given):
    return max(round(2 / 3 * given.epochs), 1)


def teacher_first(given, data, shape, seed, model_of):
    """Trains the teacher of the offline student."""
    teacher = pair(shape, seed)["teacher"]
    return trained("teacher first", teacher, data, teacher_epochs(given), seed)


def offline(given, data, shape, seed, model_of):
    """Trains a student with the same loss, whose teacher was trained first."""
    terms = [Term(losses.KLDivergence(given.temperature))]
    return trained("offline", pair(shape, seed)["student"], data, given.epochs, seed,
                   teacher=model_of("teacher first"), terms=terms, alpha=given.alpha)  # fmt: skip


"""
## The result

The table shows the accuracy of the small networks and of the teacher, and the operations of the
whole training. For the peers, the accuracy is the mean of both.
"""


def compute(given, splits):
    """Returns the operations of each arm in 10^12."""
    images = splits["train"][0]
    spec = tf.TensorSpec((1, *images.shape[1:]))
    small, big = (
        models.operations(network(images.shape[1:], filters), spec) * len(images) / 1e12
        for filters in (SMALL, BIG)
    )
    return {
        "two peers, alone": given.epochs * 6 * small,
        "two peers, mutual": given.epochs * 6 * small,
        "teacher and student, online": given.epochs * 3 * (big + small),
        "teacher and student, offline": teacher_epochs(given) * 3 * big
        + given.epochs * (big + 3 * small),
    }


COST = "10^12 operations"


def arms(given, data, shape, costs):
    """Returns `{name: Arm}`. `costs` holds the operations of each arm."""
    parts = given, data, shape

    def right(model):
        return accuracy(model, data(given.on))

    def two_alone(seed, model, model_of):
        found = [right(model_of(f"{name} alone")) for name in ("first", "second")]
        return {"small": float(np.mean(found)), COST: costs["two peers, alone"]}

    def two_mutual(seed, model, model_of):
        found = right(model)
        return {"small": float(np.mean([*found.values()])), COST: costs["two peers, mutual"]}

    def one_step(seed, model, model_of):
        found, cost = right(model), costs["teacher and student, online"]
        return {"small": found["student"], "big": found["teacher"], COST: cost}

    def one_by_one(seed, model, model_of):
        big, cost = right(model_of("teacher first")), costs["teacher and student, offline"]
        return {"small": right(model), "big": big, COST: cost}

    return {
        "first alone": Arm(functools.partial(peer_alone, "first", *parts)),
        "second alone": Arm(functools.partial(peer_alone, "second", *parts)),
        "two peers, alone": Arm(None, two_alone),
        "two peers, mutual": Arm(functools.partial(peers_mutual, *parts), two_mutual),
        "teacher and student, online": Arm(functools.partial(online, *parts), one_step),
        "teacher first": Arm(functools.partial(teacher_first, *parts)),
        "teacher and student, offline": Arm(functools.partial(offline, *parts), one_by_one),
    }


def main(arguments=None):
    given = options("Mutual and online distillation.", arguments, out="runs/mutual_learning",
                    alpha=0.5, temperature=1.0)  # fmt: skip
    splits, data = images_of(given)
    shape = splits["train"][0].shape[1:]
    compared(given, arms(given, data, shape, compute(given, splits)))


if __name__ == "__main__":
    main()
