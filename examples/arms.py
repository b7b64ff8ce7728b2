"""The arms of a comparison: trained alike over several seeds, each finished seed kept."""

import argparse
import json
import pathlib

import keras
import numpy as np
from images import batched, load

from keras_distill import Distiller

LOSS = keras.losses.SparseCategoricalCrossentropy(
    from_logits=True, reduction="mean_with_sample_weight"
)


def options(about, arguments=None, *, out, **settings):
    """The command line of a comparison: an option for each of `settings`, and the common ones."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--data", help="the folder of the idx files")
    parser.add_argument("--tfds", help="a name in TensorFlow Datasets")
    parser.add_argument("--out", default=out, type=pathlib.Path, help="where results are kept")
    parser.add_argument("--limit", type=int, help="only the first training images")
    parser.add_argument("--on", default="test", choices=("valid", "test"),
                        help="what is measured: settings are chosen on `valid`")  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="one epoch on few examples")
    for key, value in {"seeds": 3, "epochs": 12, "batch_size": 128, **settings}.items():
        parser.add_argument(f"--{key}", default=value, type=type(value))
    given = parser.parse_args(arguments)
    if given.tiny:
        given.seeds, given.epochs, given.batch_size = 1, 1, 32
    return given


def images_of(given):
    """The images that the command line names: all splits, and the function that batches them."""
    splits = load(given.data, given.tfds, limit=64 if given.tiny else None)
    splits["train"] = tuple(part[: given.limit] for part in splits["train"])
    return splits, batched(splits, given.batch_size)


def made(seed, make, *args, **kwargs):
    """What `make` returns, with the same initial weights for the same seed."""
    keras.utils.set_random_seed(seed)
    return make(*args, **kwargs)


def trained(title, model, data, epochs, seed, *, callbacks=(), **scheme):
    """A distiller that has trained `model`, in the same order of the data for the same seed.

    Adam's rate decays from 0.003 along a cosine. `scheme` is what `Distiller` takes.
    """
    print(f"\nseed {seed}, {title}")
    keras.utils.set_random_seed(seed)
    train = data("train")
    steps = epochs * int(train.cardinality())
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps, alpha=0.01)
    distiller = Distiller(model, **scheme)
    distiller.compile(keras.optimizers.Adam(rate), LOSS, metrics=["accuracy"])
    distiller.fit(train, epochs=epochs, verbose=2, callbacks=list(callbacks), shuffle=False)
    return distiller


def accuracy(distiller, dataset):
    """The accuracy in percent; for a dict of outputs that of each, by name."""
    found = distiller.evaluate(dataset, verbose=0, return_dict=True)
    if "accuracy" in found:
        return 100 * found["accuracy"]
    ending = "_accuracy"
    return {
        name.removesuffix(ending): 100 * value
        for name, value in found.items()
        if name.endswith(ending)
    }


def compared(given, one_seed):
    """Calls `one_seed(seed)`, which returns `{arm: {column: number}}`, for each seed not done yet.

    What a seed found is written at once, so that an interrupted run goes on with the next one.
    """
    given.out.mkdir(parents=True, exist_ok=True)
    here = {key: str(value) for key, value in vars(given).items() if key not in ("seeds", "out")}
    results = []
    for seed in range(given.seeds):
        file = given.out / f"seed_{seed}.json"
        if not file.exists():
            written = file.with_suffix(".part")
            written.write_text(json.dumps({"settings": here, "rows": one_seed(seed)}, indent=1))
            written.replace(file)
        kept = json.loads(file.read_text())
        if kept["settings"] != here:
            raise SystemExit(f"{file} has other settings: {kept['settings']}. Give another --out.")
        results.append(kept["rows"])
        print(f"\n{len(results)} of {given.seeds} seeds\n{table(results)}\n", flush=True)
    return results


def table(results):
    """Means and sample deviations over seeds, a row an arm, as Markdown."""
    columns = list(dict.fromkeys(column for row in results[0].values() for column in row))
    lines = [["", *columns], ["---"] * (1 + len(columns))]
    for arm in results[0]:
        found = [[result[arm].get(column) for result in results] for column in columns]
        lines.append([arm, *("-" if values[0] is None else _cell(values) for values in found)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(values):
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}"
