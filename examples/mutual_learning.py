"""
# Networks that learn together: mutual and online distillation

Two small networks that learn from each other while they learn from the labels (Zhang et al., 2018,
https://arxiv.org/abs/1706.00384), against the same two alone. And a teacher that is trained
together with its student, in one step (Anil et al., 2018, https://arxiv.org/abs/1804.03235),
against one that is trained first, at the same total compute.

    python examples/mutual_learning.py --data=DIR --limit=5000

`DIR` holds the four idx `.gz` files of Fashion-MNIST, `--tfds=fashion_mnist` fetches them;
without either, scikit-learn's 8 x 8 digits are taken. `--tiny` tries it all out in under a minute:
its numbers mean nothing.
"""

import numpy as np
import tensorflow as tf
from arms import accuracy, compared, images_of, made, options, trained
from networks import network

from keras_distill import Term, losses, models, recipes

SMALL, BIG = (4, 8, 16), (16, 32, 64)

"""
## Peers

A cohort is one Keras model with an output a member: its members are trained in the same steps.
Each begins with the weights that it has alone.
"""


def peers(shape, seed):
    """Two small networks with different initial weights."""
    return {
        name: made(seed + apart, network, shape, SMALL, name=f"{name}_network")
        for apart, name in ((0, "first"), (1000, "second"))
    }


def peers_alone(given, data, shape, seed):
    """The mean accuracy of the two, each trained on the labels alone."""
    found = [
        accuracy(trained(f"{name} alone", peer, data, given.epochs, seed), data(given.on))
        for name, peer in peers(shape, seed).items()
    ]
    return {"small": float(np.mean(found))}


def peers_mutual(given, data, shape, seed):
    """The mean accuracy of the two, trained together: labels and peers count alike."""
    net = models.cohort(**peers(shape, seed))
    terms = recipes.mutual("first", "second", temperature=given.temperature)
    distiller = trained("mutual", net, data, given.epochs, seed, terms=terms, alpha=given.alpha)
    return {"small": float(np.mean(list(accuracy(distiller, data(given.on)).values())))}


"""
## Online against offline, at equal compute

Compute is counted as it usually is: the multiplications of the forward pass, and twice that for
the backward pass. With `T` and `S` the operations of one forward pass of teacher and student,

    online, E epochs:    E * (3 T + 3 S)      both are trained
    offline, teacher:    E' * 3 T             it is trained first
    offline, student:    E * (T + 3 S)        it is trained, the teacher runs

which is equal for `E' = 2/3 E`: the offline teacher gets two thirds of the epochs, its student as
many as the online one. (With cached targets the teacher would run once, not `E` times, and could
get nearly `E` epochs.) The student and its first weights are those of the first peer alone.
"""


def pair(shape, seed):
    """A teacher and the first small peer as its student."""
    return {
        "teacher": made(seed, network, shape, BIG, name="big_network"),
        "student": peers(shape, seed)["first"],
    }


def online(given, data, shape, seed):
    """Teacher and student in one step."""
    net = models.cohort(**pair(shape, seed))
    terms = recipes.online(temperature=given.temperature)
    distiller = trained("online", net, data, given.epochs, seed, terms=terms, alpha=given.alpha)
    found = accuracy(distiller, data(given.on))
    return {"small": found["student"], "big": found["teacher"]}


def teacher_epochs(given):
    return max(round(2 / 3 * given.epochs), 1)


def offline(given, data, shape, seed):
    """The teacher first, then the student, with the same loss."""
    both, measured = pair(shape, seed), data(given.on)
    teacher = trained("teacher first", both["teacher"], data, teacher_epochs(given), seed)
    terms = [Term(losses.KLDivergence(given.temperature))]
    student = trained("offline", both["student"], data, given.epochs, seed,
                      teacher=teacher.student, terms=terms, alpha=given.alpha)  # fmt: skip
    return {"small": accuracy(student, measured), "big": accuracy(teacher, measured)}


"""
## The result

The accuracies of the small networks (the mean of the two peers, or the student's) and of the
teacher, and the operations of the whole training.
"""


def compute(given, splits):
    """The operations of each arm, in 10^12."""
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


ARMS = {
    "two peers, alone": peers_alone,
    "two peers, mutual": peers_mutual,
    "teacher and student, online": online,
    "teacher and student, offline": offline,
}


def main(arguments=None):
    given = options("Mutual and online distillation.", arguments, out="runs/mutual_learning",
                    alpha=0.5, temperature=1.0)  # fmt: skip
    splits, data = images_of(given)
    shape, costs = splits["train"][0].shape[1:], compute(given, splits)

    def one_seed(seed):
        rows = {name: arm(given, data, shape, seed) for name, arm in ARMS.items()}
        return {name: {**row, "10^12 operations": costs[name]} for name, row in rows.items()}

    compared(given, one_seed)


if __name__ == "__main__":
    main()
