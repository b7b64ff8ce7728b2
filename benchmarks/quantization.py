"""Compares quantization after training with quantization-aware training, by LiteRT files.

For each seed a student is trained alone and distilled, in floats. The distilled one is then

1. quantized after training, to int8 (calibrated on 256 training examples) and to int4 weights;
2. made `models.quantization_aware`, taught by the same teacher for a quarter of the epochs at a
   smaller learning rate, and exported: the file holds the integers that were simulated.

The table has the accuracy on the test split of every model and every file, and how often the
answers of a file equal those of its model. Every trained model is saved as soon as it is trained,
so the same command continues an interrupted run.

    python benchmarks/quantization.py --task=digits --out=runs/quantization/digits
    python benchmarks/quantization.py --task=fashion_mnist --data=DIR --limit=10000 \
        --teacher=FILE --recipe=dist --temperature=4 --alpha=0.5 --epochs=40 \
        --out=runs/quantization/fashion_5k
    python benchmarks/quantization.py --task=fashion_mnist --data=DIR --limit=10000 --width=3.5 \
        --teacher=FILE --recipe=dist --temperature=4 --alpha=0.9 --out=runs/quantization/fashion_48k
    python benchmarks/quantization.py --task=reviews --data=FILE.tsv --out=runs/quantization/reviews
"""

import argparse
import functools
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_distill import Distiller, Experiment, Term, export, losses, models, recipes
from keras_distill.experiments import cached
from keras_distill.experiments.comparison import first_examples
from keras_distill.experiments.file import load_experiment
from keras_distill.experiments.runner import Arm, Runner

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
WORDS, LENGTH = 8000, 40
# Quantization-aware arms: the bits of weights and activations, and the export's `quantize`.
AWARE = {"int8": (8, 8), "int4": (4, None)}


def reviews(data, seeds=3, epochs=8, teacher_epochs=4, **_):
    """Returns film reviews for a convolution; a line is "split TAB label TAB sentence"."""
    with open(data, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t", 2) for line in file][1:]
    train = [text for split, _, text in rows if split == "train"]
    words = layers.TextVectorization(WORDS, output_sequence_length=LENGTH)
    words.adapt(train)

    def batches(name):
        chosen = [row for row in rows if row[0] == name]
        ids = np.asarray(words(tf.constant([text for _, _, text in chosen])), "int32")
        labels = np.array([int(label) for _, label, _ in chosen])
        found = tf.data.Dataset.from_tensor_slices((ids, labels))
        return (found.shuffle(len(ids)) if name == "train" else found).batch(64)

    def network(name, width, filters):
        inputs = keras.Input((LENGTH,), dtype="int32", name="token_ids")
        x = layers.Dropout(0.3)(layers.Embedding(WORDS, width)(inputs))
        x = layers.Conv1D(filters, 3, padding="same", activation="relu")(x)
        x = layers.Dropout(0.5)(layers.GlobalMaxPooling1D()(x))
        return keras.Model(inputs, layers.Dense(2)(x), name=name)

    return Experiment(
        "reviews", student=lambda: network("student", 8, 24),
        teacher=lambda: network("teacher", 64, 128), data=batches,
        terms=[Term(losses.KLDivergence(2.0))], optimizer=lambda: keras.optimizers.Adam(2e-3),
        loss=LOSS, epochs=epochs, teacher_epochs=teacher_epochs, seeds=seeds,
    )  # fmt: skip


def experiment_of(arguments):
    """Returns the experiment that the arguments choose."""
    if arguments.task == "reviews":
        return reviews(arguments.data)
    if arguments.task == "digits":
        return load_experiment(EXAMPLES / "quickstart.py", {"seeds": 3})
    options = {"data": arguments.data, "limit": arguments.limit, "width": arguments.width,
               "teacher_epochs": arguments.teacher_epochs, "seeds": 3, "epochs": arguments.epochs,
               "temperature": arguments.temperature, "alpha": arguments.alpha}  # fmt: skip
    experiment = load_experiment(EXAMPLES / "fashion_mnist.py", options)
    if arguments.recipe == "dist":
        experiment.terms = recipes.dist(arguments.temperature)
    return experiment


def aware(experiment, bits, cache, seed, model_of):
    """Returns the distilled student with fake quantization, trained further by its teacher."""
    keras.utils.set_random_seed(seed)
    student = model_of("distilled")
    inputs, *_ = first_examples(experiment.data("train"))
    made = models.quantization_aware(student, *bits, calibration=inputs)
    source, train = cached.from_cache(experiment.data("train"), cache)
    epochs = max(1, experiment.epochs // 4)
    steps = epochs * int(experiment.data("train").cardinality())
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps, alpha=0.01)
    terms = experiment.terms(made, None) if callable(experiment.terms) else experiment.terms
    distiller = Distiller(made, teacher=source, terms=terms, alpha=experiment.alpha)
    distiller.compile(keras.optimizers.Adam(rate), LOSS)
    distiller.fit(train, epochs=epochs, verbose=2, shuffle=False)
    return made, {}


def trained(experiment, arm, cache, seed, model_of):
    """Returns a student, alone or distilled from the teacher's cached targets."""
    teacher = model_of("teacher")
    if not cache.exists():
        cached.prepare(teacher, experiment.data("train"), str(cache), ["output"])
    student, model, train = experiment.prepared(arm, seed, teacher, str(cache))
    print(f"\nseed {seed}, {arm}")
    model.fit(train, epochs=experiment.epochs, verbose=2, shuffle=False)
    return student, {}


def measured(test, seed, model, model_of):
    """Returns the accuracy of a model on the test split."""
    inputs, labels = test()
    return {"accuracy %": accuracy(model.predict(inputs, batch_size=512, verbose=0), labels)}


def written(experiment, test, quantize, name, seed, model, model_of):
    """Returns the accuracy of a model's file, and how often its answers equal the model's."""
    inputs, labels = test()
    model = model_of(name) if model is None else model
    calibration, *_ = first_examples(experiment.data("train"))
    with tempfile.TemporaryDirectory() as folder:
        found, = export.write(model, folder, "litert", quantize=quantize, inputs=inputs,
                              targets=labels, calibration=calibration, agreement=0)  # fmt: skip
    row = {"accuracy %": 100 * found.parity.exported, "kB": found.size_bytes / 1000,
           "equal answers %": 100 * found.parity.agreement}  # fmt: skip
    if name is None:  # the simulated integers
        row["simulated %"] = 100 * found.parity.student
    return row


def accuracy(outputs, labels):
    """Returns the share of right answers in percent."""
    return 100 * float(np.mean(outputs.argmax(-1) == labels))


def main():
    """Trains and measures all arms, and prints a table after each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", required=True, choices=("digits", "fashion_mnist", "reviews"),
                        help="what to train")  # fmt: skip
    parser.add_argument("--data", help="a folder of idx files, or a file of sentences")
    parser.add_argument("--out", required=True, help="where the run is written, and goes on")
    parser.add_argument("--limit", type=int, help="how many training images")
    parser.add_argument("--width", type=float, default=1.0, help="of the Fashion-MNIST student")
    parser.add_argument("--recipe", default="hinton", choices=("hinton", "dist"), help="of its "
                        "training, as the next three are")  # fmt: skip
    parser.add_argument("--temperature", type=float, default=2.0, help="divides the logits")
    parser.add_argument("--alpha", type=float, default=0.5, help="the teacher's share of the loss")
    parser.add_argument("--epochs", type=int, default=20, help="the epochs of each student")
    parser.add_argument("--teacher", metavar="FILE", help="a trained one, of another run")
    parser.add_argument("--teacher_epochs", type=int, default=24, help="the teacher's epochs")
    arguments = parser.parse_args()
    experiment = experiment_of(arguments)
    cache = pathlib.Path(arguments.out) / "targets"
    test = functools.cache(lambda: first_examples(experiment.data("test"), 10**9)[:2])
    score, file = functools.partial(measured, test), functools.partial(written, experiment, test)

    def teacher(seed, model_of):
        if arguments.teacher:
            return keras.saving.load_model(arguments.teacher, compile=False), {}
        return experiment.trained_teacher()

    arms = {"teacher": Arm(teacher, score, once=True)}
    for arm in ("alone", "distilled"):
        arms[arm] = Arm(functools.partial(trained, experiment, arm, cache), score)
    arms["distilled, float file"] = Arm(None, functools.partial(file, "none", "distilled"))
    for quantize, bits in AWARE.items():
        after = functools.partial(file, quantize, "distilled")
        arms[f"{quantize} after training"] = Arm(None, after)
        train = functools.partial(aware, experiment, bits, str(cache))
        arms[f"{quantize} trained"] = Arm(train, functools.partial(file, quantize, None))
    settings = {key: value for key, value in vars(arguments).items() if key != "out"}
    Runner(arms, seeds=experiment.seeds, folder=arguments.out, settings=settings).run(
        resume=True, title=f"{arguments.task}, {experiment.epochs} epochs"
    )


if __name__ == "__main__":
    main()
