"""
# Early exit: a network that stops where it is sure

The self-distilled network of `self_distillation.py` has three classifiers. Most images are easy, so
the first classifier is already sure of them, and the deeper layers need not run (Teerapittayanon et
al., 2016, https://arxiv.org/abs/1709.01686). The example chooses the confidence threshold on the
validation split. It takes the cheapest threshold that loses at most half a point of accuracy. It
then measures on the test split how many operations and how many milliseconds at batch size 1 this
saves.

    python examples/early_exit.py --data=DIR --limit=5000 --nets=runs/self_distillation

`--nets` names the folder in which `self_distillation.py` has saved its networks. Without it, this
example trains them.

The default data are scikit-learn's 8 x 8 digits. `--data=DIR` reads the four idx `.gz` files of
Fashion-MNIST from the folder `DIR`, and `--tfds=fashion_mnist` downloads Fashion-MNIST. `--tiny`
runs everything in under a minute, with numbers that mean nothing.
"""

import functools

from images import compared, images_of, options
from self_distillation import EXITS, SELF_DISTILLED, taught

from keras_distill import models
from keras_distill.experiments import Arm, RunFolder

"""
## The network

The network comes from the folder `--nets`. Without that option it is trained as in
`self_distillation.py`.
"""


def network(given, data, shape, seed, model_of):
    """Returns the network with exits of this seed, from `--nets` or newly trained."""
    if given.nets:
        return RunFolder(given.nets).model(f"{SELF_DISTILLED}-{seed}"), {}
    return taught(given, data, shape, seed, model_of)


"""
## The threshold and what it saves

`exit_report` runs the data once through all exits, and so knows the answers for every threshold.
`early_exit` then makes a model that stops at the chosen threshold. You can save, export and serve
that model.
"""


def measured(given, data, seed, net):
    """Returns accuracy, operations and latency in several uses of the network.

    In one use the network stops early, in another it never does, and in the others one exit answers
    for all images.
    """
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
## One network in several uses

Each row of the table is another use of the same network. The network is trained and measured once
for each seed.
"""

USES = (*(f"{exit}, for all" for exit in (*EXITS, "final")), "early exit", "never early")


def arms(given, data, shape):
    """Returns `{name: Arm}`."""
    found = {}

    def measure(use, seed, model, model_of):
        if seed not in found:
            found[seed] = measured(given, data, seed, model_of("network"))
        return found[seed][use]

    uses = {use: Arm(None, functools.partial(measure, use)) for use in USES}
    return {"network": Arm(functools.partial(network, given, data, shape)), **uses}


"""
## The result

`never early` is the same model with a threshold that no probability reaches. It runs every
classifier and never stops, so its latency includes all checks. For each seed the example also draws
a picture of accuracy against operations and latency over all thresholds, and saves it beside the
results.
"""


def main(arguments=None):
    given = options("Measures what early exits save.", arguments, out="runs/early_exit", alpha=0.3,
                    temperature=3.0, hint=0.1, nets="", lost=0.005, timed=200)  # fmt: skip
    given.timed = 1 if given.tiny else given.timed
    splits, data = images_of(given)
    shape = splits["train"][0].shape[1:]
    compared(given, arms(given, data, shape), measured=("lost", "timed"))


if __name__ == "__main__":
    main()
