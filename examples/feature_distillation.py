"""
# Feature distillation: what the teacher sees on the way

A teacher's output says what it concludes; its inner layers say what it sees. Here a small student
is trained on the labels alone, on the teacher's outputs, and on outputs and an inner layer, with
three losses of the literature: FitNets' hint, attention transfer and similarity. A `FeatureHook`
looks on, and a heat map shows which layer of the student has come to resemble which layer of the
teacher.

    python examples/feature_distillation.py --data=DIR --limit=5000

`DIR` holds the four idx `.gz` files of Fashion-MNIST, `--tfds=fashion_mnist` fetches them;
without either, scikit-learn's 8 x 8 digits are taken. `--tiny` tries it all out in under a minute:
its numbers mean nothing.
"""

import functools

from images import compared, images_of, options
from networks import accuracy, made, network, trained

from keras_distill import Term, callbacks, losses, report
from keras_distill.experiments import Arm

SMALL, BIG = (4, 8, 16), (16, 32, 64)

"""
## Where to listen

`"block_2"` is the end of the second block in both networks, a feature map of the same height and
width. The student's has 8 channels and the teacher's 32: the hint's projector, a dense layer on
the channels, is made, trained and, after `fit`, left out. The other two losses compare what does
not depend on the number of channels, where the network looks and which images it finds alike, and
get no projector. Their weights are those of the authors' code, as in `recipes`; the hint's is 1.
"""

PLACE = "block_2"


def hooks(given):
    """A function for each kind of feature that makes the callback which brings its term."""
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
## Five arms, the same budget

All students begin with the same weights and see the same order of the data. The onlooker
logs at each epoch's end how alike both layers are on images of the validation split: linear CKA,
1 where they are equal up to rotation and scale.
"""


def onlooker(splits):
    return callbacks.FeatureHook(PLACE, PLACE, probe=splits["valid"][0][:256], name="look")


def student_of(title, hook, given, splits, data, seed, model_of):
    """A student of the teacher's outputs and of what a hook brings, as an arm is trained."""
    net = made(seed, network, splits["train"][0].shape[1:], SMALL, name="student")
    listeners = [onlooker(splits)] if hook is None else [hook(), onlooker(splits)]
    return trained(title, net, data, given.epochs, seed, teacher=model_of("teacher"),
                   terms=[Term(losses.KLDivergence(given.temperature))], alpha=given.alpha,
                   callbacks=listeners)  # fmt: skip


def arms(given, splits, data):
    """`{name: Arm}`, measured by accuracy and, of a student, CKA."""
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

Every block of the teacher against every block of the student, on images of the validation split.
The number is that of the two layers that the terms compare.
"""

BLOCKS = ["block_1", "block_2", "block_3", "logits"]


def heat_map(student, teacher, splits, picture):
    """Draws the map; returns the CKA of both networks' `PLACE`."""
    cka, _, _ = report.cka_heat_map(
        student, teacher, splits["valid"][0][:256], picture,
        student_paths=BLOCKS, teacher_paths=BLOCKS,
    )  # fmt: skip
    where = BLOCKS.index(PLACE)
    return float(cka[where, where])


def main(arguments=None):
    given = options("Outputs, and inner layers too.", arguments, out="runs/feature_distillation",
                    alpha=0.5, temperature=2.0, hint=1.0, attention=1000.0,
                    similarity=3000.0)  # fmt: skip
    splits, data = images_of(given)
    compared(given, arms(given, splits, data))


if __name__ == "__main__":
    main()
