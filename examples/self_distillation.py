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

from arms import accuracy, compared, images_of, made, options, trained
from networks import network

from keras_distill import models, recipes

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


def taught(title, given, data, shape, seed):
    """A network with exits after its self-distillation."""
    net = made(seed, with_exits, shape)
    terms = recipes.byot(net, temperature=given.temperature, hint=given.hint)
    return trained(title, net, data, given.epochs, seed, terms=terms, alpha=given.alpha)


"""
## Three arms, the same budget

Each depth as a model of its own, of which the deepest is the plain network; the exits together,
on labels only; the exits together, the deepest teaching the others. All begin with the same
weights and see the same order of the data.
"""


def one_seed(given, splits, data, seed):
    """`{arm: {exit: accuracy}}`; the self-distilled network is kept, and its first exit."""
    shape, measured, alone = splits["train"][0].shape[1:], data(given.on), {}
    for exit in (*EXITS, "final"):
        model = models.keep_exit(made(seed, with_exits, shape), exit)
        depth = trained(f"{exit} alone", model, data, given.epochs, seed)
        alone[exit] = accuracy(depth, measured)
    labelled = trained("labels only", made(seed, with_exits, shape), data, given.epochs, seed)
    distilled = taught("self-distilled", given, data, shape, seed)
    distilled.save(given.out / f"seed_{seed}.keras")
    models.keep_exit(distilled.student, "exit_1").save(given.out / f"seed_{seed}_exit_1.keras")
    return {
        "each depth alone": alone,
        "exits, labels only": accuracy(labelled, measured),
        "exits, self-distilled": accuracy(distilled, measured),
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
    compared(given, lambda seed: one_seed(given, splits, data, seed))


if __name__ == "__main__":
    main()
