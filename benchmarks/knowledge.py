"""Compares recipes of every kind of knowledge: one teacher, one student, one budget.

A convolutional teacher learns all of Fashion-MNIST's training split. A student with 1/18 of its
parameters then learns 10,000 of these images, with each recipe and alone. For each seed all arms
have the same epochs, initial weights, order of the data and optimizer (Adam, from 0.01 to 0 by a
cosine, chosen by the validation accuracy of the student alone). Every recipe has only its own
terms, with its default weights from papers or published code, beside the labels (`alpha=0.5`, 0.3
for `be_your_own_teacher`). None is tuned on these data, so the table shows the result of a first
try, not which method is best. Recipes for transformers are left out.

Accuracy and agreement (how often student and teacher choose the same class) are measured on the
test split. Milliseconds per step are CPU time of all threads in the last epoch, teacher included.
Two equal trainings differ only by the rounding of threads. The same command continues an
interrupted run.

    python benchmarks/knowledge.py --data=DIR [--out=runs/knowledge] [--seeds=3] [--only=NAME]

`DIR` holds Fashion-MNIST's idx files; `--tfds=fashion_mnist` fetches them.
"""

import argparse
import functools
import json
import pathlib
import statistics
import sys
import time

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from measuring import machine

from keras_distill import Distiller, models, recipes

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))
from images import load

BATCH_SIZE = 64
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(widths, name):
    """Returns three stages, each half the size of the one before, and a head of logits."""
    inputs = x = keras.Input((28, 28, 1))
    for stage, width in enumerate(widths):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU(name=f"stage_{stage}")(x)
        if stage + 1 < len(widths):
            x = layers.MaxPooling2D()(x)
    x = layers.GlobalAveragePooling2D(name="embedding")(x)
    return keras.Model(inputs, layers.Dense(10, name="head")(x), name=name)


make_teacher = functools.partial(network, (32, 64, 128), "teacher")
make_student = functools.partial(network, (8, 16, 24), "student")


# Arms: functions of (student, teacher) that return (model to fit, model to measure, teacher).


def alone(student, teacher):
    return student, student


def with_terms(make_terms):
    def arm(student, teacher):
        terms = make_terms(student, teacher)
        return Distiller(student, teacher=teacher, terms=terms, alpha=0.5), student

    return arm


def contrastive(student, teacher, examples):
    def numbered(model):
        inputs = {"image": model.input, "index": keras.Input((), dtype="int32", name="index")}
        return keras.Model(inputs, model.output)

    terms = recipes.crd(student, teacher, examples, negatives=4096, seed=0)
    ours = numbered(student)
    return Distiller(ours, teacher=numbered(teacher), terms=terms, alpha=0.5), student


def together(make_terms):
    """Returns the student beside an untrained peer of its own kind, or an untrained teacher."""

    def arm(student, teacher):
        peer = make_teacher() if make_terms is recipes.online else network((8, 16, 24), "peer")
        net = models.cohort(teacher=peer, student=student)
        return Distiller(net, terms=make_terms("teacher", "student"), alpha=0.5), student

    return arm


def exits(student, teacher):
    net = models.add_exits(student, {"exit_0": "stage_0", "exit_1": "stage_1"}, classes=10)
    return Distiller(net, terms=recipes.byot(net), alpha=0.3), student


def arms(examples):
    of_outputs = ("hinton", "dkd", "dist", "standardized", "mlkd")
    of_layers = (
        "fitnets", "at", "nst", "vid", "mgd",
        "review_kd", "cwd", "rkd", "sp", "cc", "pkt",
        "cka",
    )  # fmt: skip
    table = {"alone": alone}
    for name in of_outputs:
        table[name] = with_terms(lambda student, teacher, name=name: getattr(recipes, name)())
    for name in of_layers:
        table[name] = with_terms(getattr(recipes, name))
    table["crd"] = functools.partial(contrastive, examples=examples)
    table["hinton + rkd"] = with_terms(
        lambda student, teacher: recipes.hinton() + recipes.rkd(student, teacher)
    )
    table["mutual (a peer)"] = together(recipes.mutual)
    table["kdcl (a peer)"] = together(recipes.kdcl)
    table["online (an untrained teacher)"] = together(recipes.online)
    table["be_your_own_teacher (two exits)"] = exits
    return table


# Training and measuring


def batches(x, y, seed, numbered=False):
    inputs = {"image": x, "index": np.arange(len(x), dtype="int32")} if numbered else x
    data = tf.data.Dataset.from_tensor_slices((inputs, y)).shuffle(len(x), seed=seed)
    return data.batch(BATCH_SIZE).prefetch(2)


def adam(rate, epochs, x):
    steps = epochs * -(-len(x) // BATCH_SIZE)
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))


def trained_teacher(folder, splits, epochs):
    path = folder / "teacher.keras"
    if not path.exists():
        keras.utils.set_random_seed(0)
        teacher = make_teacher()
        x, y = splits["train"]
        teacher.compile(adam(2e-3, epochs, x), LOSS, metrics=["accuracy"])
        teacher.fit(batches(x, y, 0), epochs=epochs, verbose=2)
        unfinished = folder / "unfinished.keras"
        teacher.save(unfinished)
        unfinished.rename(path)
    return keras.saving.load_model(path, compile=False)


class LastEpoch(keras.callbacks.Callback):
    """Measures the CPU seconds per step in the last epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start, self.steps = time.process_time(), 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = (time.process_time() - self.start) / self.steps


def run(name, arm, seed, teacher, splits, answers, options):
    keras.utils.set_random_seed(seed)
    model, student = arm(make_student(), teacher)
    x, y = (part[: options.examples] for part in splits["train"])
    model.compile(adam(1e-2, options.epochs, x), LOSS)
    clock = LastEpoch()
    data = batches(x, y, seed, numbered=name == "crd")
    model.fit(data, epochs=options.epochs, verbose=0, callbacks=[clock])
    test_x, test_y = splits["test"]
    logits = student.predict(test_x, batch_size=500, verbose=0)
    if isinstance(logits, dict):
        logits = logits["final"]
    chosen = logits.argmax(-1)
    return {"accuracy": float((chosen == test_y).mean()), "seconds": clock.seconds,
            "agreement": float((chosen == answers).mean())}  # fmt: skip


def table(results):
    """Returns the rows of a Markdown table, the best accuracy first."""

    def spread(values, digits=2):
        more = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{more}"

    rows = ["| recipe | test accuracy % | agreement % | CPU ms a step |", "|---|---|---|---|"]
    for name in sorted(results, key=lambda n: -np.mean([r["accuracy"] for r in results[n]])):
        runs = results[name]
        accuracy, agreement = ([100 * r[key] for r in runs] for key in ("accuracy", "agreement"))
        step = statistics.median(1e3 * r["seconds"] for r in runs)
        rows.append(f"| {name} | {spread(accuracy)} | {spread(agreement)} | {step:.0f} |")
    return "\n".join(rows)


def plot(results, path):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names = sorted(results, key=lambda n: np.mean([r["accuracy"] for r in results[n]]))
    values = [[100 * r["accuracy"] for r in results[name]] for name in names]
    figure, axes = pyplot.subplots(figsize=(7, 0.28 * len(names) + 1), layout="constrained")
    colors = ["tab:orange" if name == "alone" else "tab:blue" for name in names]
    means, spreads = ([measure(v) for v in values] for measure in (np.mean, np.std))
    axes.barh(names, means, xerr=spreads, color=colors)
    axes.axvline(np.mean(values[names.index("alone")]), color="tab:orange", linewidth=1)
    axes.set_xlim(min(map(min, values)) - 0.5, max(map(max, values)) + 0.5)
    axes.set_xlabel("test accuracy, %")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="a folder of Fashion-MNIST's idx files")
    parser.add_argument("--tfds", help="a TensorFlow Datasets name instead")
    parser.add_argument("--out", default="runs/knowledge", type=pathlib.Path,
                        help="where the run is written, and goes on")  # fmt: skip
    parser.add_argument("--only", action="append", help="an arm; may be repeated")
    for name, default in (("examples", 10_000), ("epochs", 6), ("seeds", 3), ("teacher-epochs", 6)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    splits = load(options.data, options.tfds)
    teacher = trained_teacher(options.out, splits, options.teacher_epochs)
    test_x, test_y = splits["test"]
    answers = teacher.predict(test_x, batch_size=500, verbose=0).argmax(-1)
    sizes = [model.count_params() for model in (teacher, make_student())]
    print(f"teacher {100 * (answers == test_y).mean():.2f}%, parameters {sizes}", machine())
    settings = {"examples": options.examples, "epochs": options.epochs}
    results = {}
    for seed in range(options.seeds):
        for name, arm in arms(min(options.examples, len(splits["train"][0]))).items():
            if options.only and name not in options.only:
                continue
            path = options.out / f"{name}-{seed}.json"
            if not path.exists() or (record := json.loads(path.read_text()))["of"] != settings:
                record = run(name, arm, seed, teacher, splits, answers, options)
                record["of"] = settings
                path.write_text(json.dumps(record))
                print(f"{name}, seed {seed}: {100 * record['accuracy']:.2f}%", flush=True)
                keras.backend.clear_session()
            results.setdefault(name, []).append(record)
    print(table(results))
    if "alone" in results:
        plot(results, options.out / "knowledge.png")


if __name__ == "__main__":
    main()
