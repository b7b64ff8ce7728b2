"""
# Feature distillation: the student learns from hidden layers

The teacher's output says only what it concludes. Its hidden layers show how it sees the image, and
a student can learn from them, too. This example trains a small student in three ways: on the labels
alone, on the teacher's outputs, and on the outputs and a hidden layer. For the hidden layer it
compares three losses, which are FitNets' hint, attention transfer and similarity. A `FeatureHook`
measures how similar the two layers become. A heat map shows which layers of the student resemble
which layers of the teacher.

    python examples/feature_distillation.py --data=DIR --limit=5000

The default data are scikit-learn's 8 x 8 digits. `--data=DIR` reads the four idx `.gz` files of
Fashion-MNIST from the folder `DIR`, and `--tfds=fashion_mnist` downloads Fashion-MNIST. `--tiny`
runs everything in under a minute, with numbers that mean nothing.
"""

import functools

from images import compared, images_of, options
from networks import accuracy, made, network, trained

from keras_distill import Term, callbacks, losses, report
from keras_distill.experiments import Arm

SMALL, BIG = (4, 8, 16), (16, 32, 64)

"""
## The layer to compare

`"block_2"` is the end of the second block in both networks. The feature map has the same height and
width in both, but the student's has 8 channels and the teacher's has 32. The hint therefore needs a
projector, a dense layer on the channels. The distiller makes it, trains it, and leaves it out after
`fit`. The other two losses need no projector, because they do not depend on the number of channels.
Attention transfer compares where the networks look, and similarity compares which images they find
alike. The weights of these two are those of the authors' code, as in `recipes`. The weight of the
hint is 1.
"""

PLACE = "block_2"


def hooks(given):
    """Returns a function for each loss. It makes the callback that adds the loss as a term."""
    kinds = {
        "hint": ("mse", given.hint),
        "attention": (losses.AttentionTransfer(variant="code"), given.attention),
        "similarity": (losses.SimilarityPreserving(), given.similarity),
    }
    return {
        name: lambda loss=loss, weight=weight, name=name: callbacks.FeatureHook(
            PLACE, PLACE, loss=loss, weight=weight, name=name
        )
        for name, (loss, weight) in kinds.items()
    }


"""
## Five students with the same budget

All students start from the same weights and see the data in the same order. At the end of each
epoch, a second hook logs how similar both layers are on images of the validation split. It measures
linear CKA, which is 1 for layers that are equal up to rotation and scale.
"""


def onlooker(splits):
    return callbacks.FeatureHook(PLACE, PLACE, probe=splits["valid"][0][:256], name="look")


def student_of(title, hook, given, splits, data, seed, model_of):
    """Trains a student on the teacher's outputs and on the layer that a hook compares."""
    net = made(seed, network, splits["train"][0].shape[1:], SMALL, name="student")
    listeners = [onlooker(splits)] if hook is None else [hook(), onlooker(splits)]
    return trained(title, net, data, given.epochs, seed, teacher=model_of("teacher"),
                   terms=[Term(losses.KLDivergence(given.temperature))], alpha=given.alpha,
                   callbacks=listeners)  # fmt: skip


def arms(given, splits, data):
    """Returns `{name: Arm}`. Every arm is measured by its accuracy, and a student also by CKA."""
    shape = splits["train"][0].shape[1:]

    def alone(name, filters, title, seed, model_of):
        net = made(seed, network, shape, filters, name=name)
        return trained(title, net, data, given.epochs, seed)

    def right(seed, model, model_of):
        return {"accuracy": accuracy(model, data(given.on))}

    def right_and_alike(title, seed, model, model_of):
        picture = given.out / f"seed_{seed}_{title.replace(' ', '_')}.png"
        alike = heat_map(model, model_of("teacher"), splits, picture)
        return {**right(seed, model, model_of), f"CKA of {PLACE}": alike}

    students = {"labels": functools.partial(alone, "student", SMALL, "labels")}
    named = {f"outputs and {name}": hook for name, hook in hooks(given).items()}
    named = {"outputs": None, **named}
    for title, hook in named.items():
        students[title] = functools.partial(student_of, title, hook, given, splits, data)
    return {
        "teacher": Arm(functools.partial(alone, "teacher", BIG, "teacher"), right),
        **{title: Arm(train, functools.partial(right_and_alike, title))
           for title, train in students.items()},
    }  # fmt: skip


"""
## The heat map

The heat map compares every block of the teacher with every block of the student, on images of the
validation split. The table shows the CKA of the two layers that the terms compare.
"""

BLOCKS = ["block_1", "block_2", "block_3", "logits"]


def heat_map(student, teacher, splits, picture):
    """Draws the heat map and returns the CKA of `PLACE` in both networks."""
    cka, _, _ = report.cka_heat_map(
        student, teacher, splits["valid"][0][:256], picture,
        student_paths=BLOCKS, teacher_paths=BLOCKS,
    )  # fmt: skip
    where = BLOCKS.index(PLACE)
    return float(cka[where, where])


def main(arguments=None):
    given = options("Compares feature losses.", arguments, out="runs/feature_distillation",
                    alpha=0.5, temperature=2.0, hint=1.0, attention=1000.0,
                    similarity=3000.0)  # fmt: skip
    splits, data = images_of(given)
    compared(given, arms(given, splits, data))


if __name__ == "__main__":
    main()
