"""
# Early exit: a network that stops where it is sure

The self-distilled network of `self_distillation.py` has three classifiers. Most images are easy:
the first is sure of them, and what lies deeper need not be computed (Teerapittayanon et al., 2016,
https://arxiv.org/abs/1709.01686). How sure it must be is chosen on the validation split: the
cheapest threshold that loses half a point of accuracy at most. The test split then says what that
saves, in operations and in milliseconds at batch size 1.

    python examples/early_exit.py --data=DIR --limit=5000 --nets=runs/self_distillation

`--nets` is where `self_distillation.py` has kept its networks; without it they are trained here.
`DIR` holds the four idx `.gz` files of Fashion-MNIST, `--tfds=fashion_mnist` fetches them;
without either, scikit-learn's 8 x 8 digits are taken. `--tiny` tries it all out in under a minute:
its numbers mean nothing.
"""

import functools

from images import compared, images_of, options
from self_distillation import EXITS, SELF_DISTILLED, taught

from keras_distill import models
from keras_distill.experiments import Arm, RunFolder

"""
## The network

From `--nets`, or trained as there.
"""


def network(given, data, shape, seed, model_of):
    """The network with exits of this seed, as an arm is trained."""
    if given.nets:
        return RunFolder(given.nets).model(f"{SELF_DISTILLED}-{seed}"), {}
    return taught(given, data, shape, seed, model_of)


"""
## The threshold, and what it saves

`exit_report` runs the data once through all exits and then knows what any threshold would have
answered. `early_exit` makes the one model that stops, to save, export and serve.
"""


def measured(given, data, seed, net):
    """Accuracy, operations and latency: whole, stopping early, and of each exit for all images."""
    chosen = models.cheapest(models.exit_report(net, data("valid"), timed=0), given.lost)
    found = models.exit_report(net, data(given.on), timed=given.timed)
    rows = {f"{exit['exit']}, for all": _row(exit) for exit in found["exits"]}
    for row in found["thresholds"]:
        if row["threshold"] == chosen["threshold"]:
            rows["early exit"] = {**_row(row), "threshold": row["threshold"]}
        if row["threshold"] == 1:
            rows["never early"] = _row(row)
    models.plot_exits(found, given.out / f"seed_{seed}.png")
    early = models.early_exit(net, chosen["threshold"])
    early.save(given.out / f"seed_{seed}_early.keras")
    return rows


def _row(measured):
    row = {
        "accuracy": 100 * measured["accuracy"],
        "10^6 operations": measured["operations"] / 1e6,
    }
    return {**row, "latency, ms": measured["latency_ms"]} if "latency_ms" in measured else row


"""
## The arms

There is one network, of which each arm is another use: it is trained, and measured, once a seed.
"""

USES = (*(f"{exit}, for all" for exit in (*EXITS, "final")), "early exit", "never early")


def arms(given, data, shape):
    """`{name: Arm}`."""
    found = {}

    def measure(use, seed, model, model_of):
        if seed not in found:
            found[seed] = measured(given, data, seed, model_of("network"))
        return found[seed][use]

    uses = {use: Arm(None, functools.partial(measure, use)) for use in USES}
    return {"network": Arm(functools.partial(network, given, data, shape)), **uses}


"""
## The result

`never early` is the same model with a threshold that nothing reaches: it asks every classifier,
in vain. A picture a seed lies beside the results: accuracy against operations and latency over the
thresholds.
"""


def main(arguments=None):
    given = options("What stopping early saves.", arguments, out="runs/early_exit", alpha=0.3,
                    temperature=3.0, hint=0.1, nets="", lost=0.005, timed=200)  # fmt: skip
    given.timed = 1 if given.tiny else given.timed
    splits, data = images_of(given)
    shape = splits["train"][0].shape[1:]
    compared(given, arms(given, data, shape), measured=("lost", "timed"))


if __name__ == "__main__":
    main()
