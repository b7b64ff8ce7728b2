"""
# Be your own teacher: a network with exits that teaches itself

This example distills without a second network. A convolutional network gets a shallow classifier
behind each of its first two blocks. All classifiers learn from the labels, and the deepest one also
teaches the shallow ones (Zhang et al., 2019, https://arxiv.org/abs/1905.08094). Afterwards you can
cut out each exit as a small model. `early_exit.py` makes a network that stops at the first exit
that is sure.

    python examples/self_distillation.py --data=DIR --limit=5000

The default data are scikit-learn's 8 x 8 digits. `--data=DIR` reads the four idx `.gz` files of
Fashion-MNIST from the folder `DIR`, and `--tfds=fashion_mnist` downloads Fashion-MNIST. `--tiny`
runs everything in under a minute, with numbers that mean nothing.
"""

import functools

from images import compared, images_of, options
from networks import accuracy, made, network, trained

from keras_distill import models, recipes
from keras_distill.experiments import Arm

"""
## The network and its exits

Each block halves the image. An exit has a bottleneck as wide as the deepest feature, a mean over
positions, and a dense layer. This is the default of `add_exits`.
"""

EXITS = {"exit_1": "block_1", "exit_2": "block_2"}


def with_exits(shape):
    """Returns the network with its exits."""
    return models.add_exits(network(shape), EXITS)


"""
## What the deepest exit teaches

Each shallow exit gets two losses beside the labels. They are the divergence from the softened
output of the deepest exit, and the distance of its feature from the deepest feature. The labels
have the weight `1 - alpha`.
"""


def taught(given, data, shape, seed, model_of):
    """Trains a network with exits by self-distillation."""
    net = made(seed, with_exits, shape)
    terms = recipes.byot(net, temperature=given.temperature, hint=given.hint)
    return trained(SELF_DISTILLED, net, data, given.epochs, seed, terms=terms, alpha=given.alpha)


"""
## Three ways of training with the same budget

The example compares three ways of training:

- Each depth is trained as a separate model. The deepest one is the plain network.
- All exits are trained together on the labels only.
- All exits are trained together, and the deepest teaches the others.

All models start from the same weights and see the data in the same order. The example also saves
the first exit of the self-distilled network as a separate model.
"""

SELF_DISTILLED = "exits, self-distilled"


def arms(given, data, shape):
    """Returns `{name: Arm}`. Each arm is measured by `{exit: accuracy}`."""

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

The table shows the accuracy of each exit, as the mean over seeds with the sample deviation.
`docs/results.md` shows the numbers of a real run and explains them.
"""


def main(arguments=None):
    given = options("Compares self-distillation with labels alone.", arguments,
                    out="runs/self_distillation", alpha=0.3, temperature=3.0, hint=0.1)  # fmt: skip
    splits, data = images_of(given)
    compared(given, arms(given, data, splits["train"][0].shape[1:]))


if __name__ == "__main__":
    main()
