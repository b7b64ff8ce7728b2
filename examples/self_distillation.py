"""
# Be your own teacher: a network with exits that teaches itself

A convolutional network gets a shallow classifier behind each of its first two blocks. The deepest
classifier then teaches the shallow ones while all learn from the labels (Zhang et al., 2019,
https://arxiv.org/abs/1905.08094): no other teacher is needed. Afterwards each exit can be cut out
as a small model of its own, or the whole stops early where it is sure.

    python examples/self_distillation.py --data=DIR --out=runs/self_distillation

`DIR` holds the four idx `.gz` files of Fashion-MNIST, `--tfds=fashion_mnist` fetches them;
without either, scikit-learn's 8 x 8 digits are taken. `--tiny` tries it all out in under a minute:
its numbers mean nothing.
"""

import argparse
import json
import pathlib

import keras
import numpy as np
from images import batched, load
from keras import layers

from keras_distill import Distiller, models, recipes

"""
## The network and its exits

Each block halves the image. An exit is a bottleneck as wide as the deepest feature, the mean over
positions, and a dense layer: what `add_exits` puts there without being told more.
"""

EXITS = {"exit_1": "block_1", "exit_2": "block_2"}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(shape):
    """Three blocks of a convolution and batch normalization, and one classifier."""
    x = inputs = keras.Input(shape)
    for block, filters in enumerate((16, 32, 64), start=1):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU(name=f"block_{block}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name="network")


"""
## Four arms, the same budget

The network alone; each shallow model alone; the exits together, on labels only; the exits
together, the deepest teaching the others. In an arm all runs of one seed begin with the same
weights and see the same order of the data.
"""


def trained(model, data, epochs, seed, terms=None, alpha=0.0):
    """The model's accuracy on the test split, at each of its outputs."""
    keras.utils.set_random_seed(seed)
    distiller = Distiller(model, terms=terms, alpha=alpha)
    distiller.compile(keras.optimizers.Adam(2e-3), LOSS, metrics=["accuracy"])
    distiller.fit(data("train"), epochs=epochs, validation_data=data("valid"), verbose=2)
    found = distiller.evaluate(data("test"), verbose=0, return_dict=True)
    return {name: value for name, value in found.items() if name.endswith("accuracy")}


def with_exits(shape, seed):
    """The network with its exits, with the same weights for the same seed."""
    keras.utils.set_random_seed(seed)
    return models.add_exits(network(shape), EXITS)


def one_seed(splits, seed, epochs, batch_size, alpha, temperature, hint):
    """One seed of every arm: `{arm: {exit: accuracy}}`, and the self-distilled network."""
    data, shape = batched(splits, batch_size), splits["train"][0].shape[1:]
    rows = {"alone": {}}
    for exit in (*EXITS, "final"):
        shallow = models.keep_exit(with_exits(shape, seed), exit)
        rows["alone"][f"{exit}_accuracy"] = trained(shallow, data, epochs, seed)["accuracy"]
    rows["labels only"] = trained(with_exits(shape, seed), data, epochs, seed)
    net = with_exits(shape, seed)
    terms = recipes.be_your_own_teacher(net, temperature=temperature, hint=hint)
    rows["self-distilled"] = trained(net, data, epochs, seed, terms, alpha)
    return rows, net


"""
## The result

One row an arm: the mean over seeds, with the sample's deviation. Each finished seed is written at
once; a run that was interrupted goes on with the next.
"""


def table(results):
    """The accuracies in percent, as text."""
    lines = [f"{'':16}" + "".join(f"{exit:>16}" for exit in (*EXITS, "final"))]
    for arm in results[0]:
        cells = []
        for exit in (*EXITS, "final"):
            found = [100 * result[arm][f"{exit}_accuracy"] for result in results]
            spread = f" ± {np.std(found, ddof=1):.2f}" if len(found) > 1 else ""
            cells.append(f"{np.mean(found):.2f}{spread}")
        lines.append(f"{arm:16}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--data", help="the folder of the idx files")
    parser.add_argument("--tfds", help="a name in TensorFlow Datasets")
    parser.add_argument("--out", default="runs/self_distillation", type=pathlib.Path)
    parser.add_argument("--seeds", default=3, type=int)
    parser.add_argument("--epochs", default=12, type=int)
    parser.add_argument("--alpha", default=0.3, type=float)
    parser.add_argument("--temperature", default=3.0, type=float)
    parser.add_argument("--hint", default=0.1, type=float)
    parser.add_argument("--limit", type=int, help="only the first examples of each split")
    parser.add_argument("--tiny", action="store_true", help="one epoch on few examples")
    given = parser.parse_args(arguments)
    if given.tiny:
        given.seeds, given.epochs, given.limit = 1, 1, 64
    splits = load(given.data, given.tfds, given.limit)
    given.out.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in range(given.seeds):
        file = given.out / f"seed_{seed}.json"
        settings = {
            key: str(value) for key, value in vars(given).items() if key not in ("seeds", "out")
        }
        before = json.loads(file.read_text()) if file.exists() else None
        if before and before["settings"] != settings:
            parser.error(f"{file} has other settings: {before['settings']}. Choose another --out.")
        if before is None:
            rows, net = one_seed(splits, seed, given.epochs, 128 if not given.tiny else 32,
                            given.alpha, given.temperature, given.hint)  # fmt: skip
            net.save(given.out / f"seed_{seed}.keras")
            before = {"settings": settings, "rows": rows}
            written = file.with_suffix(".part")
            written.write_text(json.dumps(before, indent=1))
            written.replace(file)
        results.append(before["rows"])
        print(table(results))
    report(keras.models.load_model(given.out / "seed_0.keras"), splits, given)


"""
## Stopping early

The threshold is chosen on the validation split: the cheapest that loses half a point at most.
The test split then says what it saves.
"""


def report(net, splits, given):
    data = batched(splits, 256)
    chosen = models.cheapest(models.exit_report(net, data("valid"), timed=0))["threshold"]
    found = models.exit_report(net, data("test"), [chosen, 1.0], timed=8 if given.tiny else 64)
    early, whole = found["thresholds"]
    print(
        f"early exit at {chosen:g}: accuracy {early['accuracy']:.4f} for {whole['accuracy']:.4f}, "
        f"{early['operations']:,.0f} operations for {whole['operations']:,.0f}, "
        f"{early['latency_ms']:.3f} ms for {whole['latency_ms']:.3f}"
    )
    models.early_exit(net, chosen).save(given.out / "early.keras")
    models.keep_exit(net, "exit_1").save(given.out / "exit_1.keras")


if __name__ == "__main__":
    main()
