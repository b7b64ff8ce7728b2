"""
# What goes wrong in `keras.distillation`, shown by running it

Keras has its own distiller. This script runs it beside `keras_distill` on models of a few weights.
For each fault it prints the expected value and the values of both packages. It takes under a minute
on one core.

    python examples/faults_of_keras_distillation.py

A line ends in "fault" if `keras.distillation` does not give the expected value. It ends in "mended"
if your version of Keras does. `docs/moving.md` explains how to move your code.
"""

import os
import tempfile
import warnings

import keras
import numpy as np
from keras import layers, ops

from keras_distill import Distiller, Term, losses

TEMPERATURE = 2.0
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(16, 4)).astype("float32")
Y = RANDOM.integers(0, 3, 16)
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(width=8, name=None, **options):
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(width, "relu", name="hidden", **options), layers.Dense(3)],
        name=name,
    )


def theirs(student, teacher, terms=None, labels=0.5):
    """Wraps a student in the distiller of `keras.distillation`."""
    distiller = keras.distillation.Distiller(
        teacher=teacher,
        student=student,
        distillation_losses=terms or keras.distillation.LogitsDistillation(TEMPERATURE),
        student_loss_weight=labels,
    )
    distiller.compile(keras.optimizers.SGD(0.1), CE)
    return distiller


def hint():
    """Returns one term between hidden layers and one between outputs."""
    return [
        keras.distillation.LogitsDistillation(TEMPERATURE),
        keras.distillation.FeatureDistillation(
            teacher_layer_name="hidden", student_layer_name="hidden"
        ),
    ]


"""
## The loss

The default loss is named `"kl_divergence"`. That function expects probabilities, but it gets
logits. Nothing softens the outputs, and the factor T^2 is missing.
"""


def default_loss():
    teacher, student = X[:, :3] * 3, X[:, 1:] * 3
    log_p, log_q = (
        ops.convert_to_numpy(ops.log_softmax(each / TEMPERATURE)) for each in (teacher, student)
    )
    exact = TEMPERATURE**2 * float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)))
    loss = keras.distillation.LogitsDistillation(TEMPERATURE).compute_loss(teacher, student)
    own = losses.KLDivergence(TEMPERATURE)(teacher, student)
    return f"{exact:.3f}", f"{float(loss):.3f}", f"{float(own):.3f}"


def shifted_logits():
    """Adds a number to all logits of an example, which does not change its probabilities."""
    teacher, student = X[:, :3] + 10, X[:, 1:] + 10
    loss = keras.distillation.LogitsDistillation(TEMPERATURE)
    change = abs(
        float(loss.compute_loss(teacher, student))
        - float(loss.compute_loss(X[:, :3], X[:, 1:]))
    )
    own = losses.KLDivergence(TEMPERATURE)
    ours = abs(float(own(teacher, student)) - float(own(X[:, :3], X[:, 1:])))
    return "0.000", f"{change:.3f}", f"{ours:.3f}"


"""
## The step

With a feature loss, the student runs twice in each step. `evaluate` runs the student in training
mode. Dropout then drops values, and `BatchNormalization` updates its statistics.
"""


@keras.saving.register_keras_serializable(package="faults")
class Counted(layers.Layer):
    """Returns its inputs and counts how often Python calls it."""

    calls = 0

    def call(self, x):
        type(self).calls += 1
        return x


def student_runs():
    teacher = network()
    counts = []
    for make in (lambda student: theirs(student, teacher, hint()), lambda student: ours(student)):
        student = keras.Sequential(
            [keras.Input((4,)), Counted(), layers.Dense(8, name="hidden"), layers.Dense(3)]
        )
        distiller = make(student)
        distiller.compile(keras.optimizers.SGD(0.1), CE, run_eagerly=True)
        distiller.fit(X, Y, batch_size=16, epochs=1, verbose=0)  # makes the variables
        Counted.calls = 0
        distiller.fit(X, Y, batch_size=16, epochs=1, verbose=0)
        counts.append(str(Counted.calls))
    return ("1", *counts)


def ours(student):
    hint = Term("mse", student="hidden", teacher="hidden")
    terms = [Term(losses.KLDivergence(TEMPERATURE)), hint]
    return Distiller(student, teacher=network(), terms=terms)


def statistics_in_evaluate():
    moved = []
    for make in (lambda student: theirs(student, network(), hint()), ours):
        norm = layers.BatchNormalization()
        student = keras.Sequential(
            [keras.Input((4,)), norm, layers.Dense(8, name="hidden"), layers.Dense(3)]
        )
        distiller = make(student)
        distiller.compile(keras.optimizers.SGD(0.1), CE)
        distiller.evaluate(X, Y, verbose=0)
        moved.append(f"{np.abs(ops.convert_to_numpy(norm.moving_mean)).max():.3f}")
    return ("0.000", *moved)


"""
## Weights, masks and regularization

Sample weights do not reach the distillation terms, and the regularization losses of the student are
lost.
"""


def sample_weights():
    """Takes a step in which all weights are 0. It must change nothing."""
    moved = []
    for make in (lambda student: theirs(student, network()), lambda student: own(student)):
        student = network()
        before = [np.array(each) for each in student.get_weights()]
        make(student).fit(X, Y, sample_weight=np.zeros(16), epochs=1, verbose=0)
        after = student.get_weights()
        moved.append(f"{sum(np.abs(a - b).sum() for a, b in zip(after, before)):.3f}")
    return ("0.000", *moved)


def own(student):
    distiller = Distiller(student, teacher=network())
    distiller.compile(keras.optimizers.SGD(0.1), CE)
    return distiller


def regularization():
    """Checks that the loss includes an L2 penalty."""
    logged = []
    for make in (lambda student: theirs(student, network()), own):
        student = network(kernel_regularizer=keras.regularizers.L2(10.0))
        penalty = float(sum(student.losses))
        loss = make(student).fit(X, Y, batch_size=16, epochs=1, verbose=0).history["loss"][0]
        logged.append("yes" if loss > 0.9 * penalty else "no")
    return ("yes", *logged)


"""
## What is saved

Each saved file includes the teacher. A weights file, too, holds both models.
"""


def saved_weights():
    teacher = network(64, "teacher")
    expected = network().count_params()
    counts = []
    for distiller in (theirs(network(), teacher), Distiller(network(), teacher=teacher)):
        if isinstance(distiller, Distiller):
            distiller.compile("adam", CE)
        distiller.fit(X, Y, verbose=0)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "student.keras")
            distiller.save(path)
            try:
                counts.append(str(keras.saving.load_model(path).count_params()))
            except (TypeError, ValueError, AttributeError) as error:
                counts.append(type(error).__name__)
    return (str(expected), *counts)


def teachers_trainable():
    """Checks that the user's own teacher stays trainable."""
    kept = []
    for make in (theirs, lambda student, teacher: Distiller(student, teacher=teacher)):
        teacher = network()
        make(network(), teacher)
        kept.append("trainable" if teacher.trainable else "frozen")
    return ("trainable", *kept)


FAULTS = {
    "KL at T = 2, the default loss": default_loss,
    "change of the loss when all logits grow by 10": shifted_logits,
    "student's runs in a step with a feature loss": student_runs,
    "BatchNormalization moved by evaluate()": statistics_in_evaluate,
    "update of a step whose sample weights are 0": sample_weights,
    "student's regularization is in the loss": regularization,
    "parameters in the saved file": saved_weights,
    "the user's teacher afterwards": teachers_trainable,
}


def main():
    keras.utils.set_random_seed(0)
    print(f"Keras {keras.__version__}, backend {keras.backend.backend()}\n")
    print(f"{'':46} {'expected':>10} {'keras':>10} {'ours':>10}")
    found = {}
    for name, measure in FAULTS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected, peer, ours = measure()
        found[name] = (expected, peer, ours)
        verdict = "mended" if peer == expected else "fault"
        print(f"{name:46} {expected:>10} {peer:>10} {ours:>10}  {verdict}")
    return found


if __name__ == "__main__":
    main()
