"""
# Be your own teacher: a network with exits that teaches itself

A convolutional network gets a shallow classifier behind each of its first two blocks. The deepest
classifier then teaches the shallow ones while all learn from the labels (Zhang et al., 2019,
https://arxiv.org/abs/1905.08094): no other teacher is needed. Afterwards each exit can be cut out
as a small model of its own. `early_exit.py` lets the whole network stop where it is sure.

    python examples/self_distillation.py --data=DIR --limit=5000

`DIR` holds the four idx `.gz` files of Fashion-MNIST, `--tfds=fashion_mnist` fetches them;
without either, scikit-learn's 8 x 8 digits are taken. `--tiny` tries it all out in under a minute:
its numbers mean nothing.
"""

import functools

from images import compared, images_of, options
from networks import accuracy, made, network, trained

from keras_distill import models, recipes
from keras_distill.experiments import Arm

"""
## The network and its exits

Each block halves the image. An exit is a bottleneck as wide as the deepest feature, the mean over
positions, and a dense layer: what `add_exits` puts there without being told more.
"""

EXITS = {"exit_1": "block_1", "exit_2": "block_2"}


def with_exits(shape):
    """The network with its exits."""
    return models.add_exits(network(shape), EXITS)


"""
## What the deepest exit teaches

Every shallow exit gets the divergence from the deepest one's softened output and the distance of
its feature from the deepest feature. `1 - alpha` is the share of the labels.
"""


def taught(given, data, shape, seed, model_of):
    """A network with exits after its self-distillation, as an arm is trained."""
    net = made(seed, with_exits, shape)
    terms = recipes.byot(net, temperature=given.temperature, hint=given.hint)
    return trained(SELF_DISTILLED, net, data, given.epochs, seed, terms=terms, alpha=given.alpha)


"""
## Three arms, the same budget

Each depth as a model of its own, of which the deepest is the plain network; the exits together,
on labels only; the exits together, the deepest teaching the others. All begin with the same
weights and see the same order of the data. The first exit of the self-distilled network is also
kept as a model of its own.
"""

SELF_DISTILLED = "exits, self-distilled"


def arms(given, data, shape):
    """`{name: Arm}`; each is measured by `{exit: accuracy}`."""

    def depth(exit, seed, model_of):
        model = models.keep_exit(made(seed, with_exits, shape), exit)
        return trained(f"{exit} alone", model, data, given.epochs, seed)

    def depths(seed, model, model_of):
        return {exit: accuracy(model_of(f"{exit} alone"), data(given.on)) for exit in depths_of}

    def labelled(seed, model_of):
        return trained("labels only", made(seed, with_exits, shape), data, given.epochs, seed)

    def exits(seed, model, model_of):
        return accuracy(model, data(given.on))

    def exits_and_first(seed, model, model_of):
        models.keep_exit(model, "exit_1").save(given.out / f"seed_{seed}_exit_1.keras")
        return exits(seed, model, model_of)

    depths_of = (*EXITS, "final")
    return {
        **{f"{exit} alone": Arm(functools.partial(depth, exit)) for exit in depths_of},
        "each depth alone": Arm(None, depths),
        "exits, labels only": Arm(labelled, exits),
        SELF_DISTILLED: Arm(functools.partial(taught, given, data, shape), exits_and_first),
    }


"""
## The result

The accuracy of each exit, the mean over seeds with its sample deviation. What it was for us, and
what it means, is in `docs/results.md`.
"""


def main(arguments=None):
    given = options("Self-distillation against labels alone.", arguments,
                    out="runs/self_distillation", alpha=0.3, temperature=3.0, hint=0.1)  # fmt: skip
    splits, data = images_of(given)
    compared(given, arms(given, data, splits["train"][0].shape[1:]))


if __name__ == "__main__":
    main()
