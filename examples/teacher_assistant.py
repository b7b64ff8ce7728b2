"""
# Teacher assistants: steps between a big teacher and a small student

A teacher that is much larger than its student can teach it worse than a smaller one does. A teacher
assistant stands between them: the teacher is distilled into the assistant, and the assistant into
the student (Mirzadeh et al., 2020, https://arxiv.org/abs/1902.03393). Here a student learns from
labels alone, from the teacher, and at the end of a chain of one and of two assistants.

    python examples/teacher_assistant.py --seeds=1

It took a minute of CPU time, on scikit-learn's 8 x 8 digits. Accuracies of the 600 test images in
percent, with one seed:

| | accuracy | parameters |
|---|---|---|
| teacher | 98.00 | 73,114 |
| big assistant | 96.83 | 18,706 |
| small assistant | 90.50 | 4,894 |
| student of labels | 83.00 | 1,336 |
| student of labels, three times as long | 88.33 | 1,336 |
| student of the teacher | 81.67 | 1,336 |
| student of the teacher, three times as long | 88.83 | 1,336 |
| student of one assistant | 81.00 | 1,336 |
| student of two assistants | 83.00 | 1,336 |

Five points come from the longer training, and none from the assistants. One seed says little: the
standard error of an accuracy is 1.5 points here. `--seeds=3` goes on with this run.

`--data=DIR` takes the four idx `.gz` files of Fashion-MNIST, and `--tfds=fashion_mnist` fetches
them. `--tiny` tries it all out in under a minute: its numbers mean nothing.
"""

import functools

from images import compared, images_of, options
from networks import accuracy, made, network, trained

from keras_distill import Term, losses
from keras_distill.experiments import Arm

"""
## Four sizes

Each network has about a quarter of the parameters of the one before it.
"""

SIZES = {
    "teacher": (16, 32, 64),
    "big assistant": (8, 16, 32),
    "small assistant": (4, 8, 16),
    "student": (2, 4, 8),
}

"""
## A step of a chain

Every step is the same call: a `Distiller` with the model of the step before as its teacher. What
the step returns is a plain Keras model, so that a chain can end anywhere.
"""


def step(title, size, teacher, epochs, given, data, shape, seed, model_of):
    """A network of one size, taught by labels and, if there is one, a teacher, as an arm is."""
    net = made(seed, network, shape, SIZES[size], name=size.replace(" ", "_"))
    scheme = {}
    if teacher is not None:
        terms = [Term(losses.KLDivergence(given.temperature))]
        scheme = {"teacher": model_of(teacher), "terms": terms, "alpha": given.alpha}
    return trained(title, net, data, epochs, seed, **scheme)


"""
## The arms

A chain trains its assistants, too, and so takes more epochs than the straight way. Two arms without
assistants get the epochs of the longest chain: where these are as good, the chain wins by its
longer training. All students begin with the same weights.
"""

STUDENTS = {  # what teaches the student, and for how many times the epochs
    "labels": (None, 1),
    "labels, three times as long": (None, 3),
    "teacher": ("teacher", 1),
    "teacher, three times as long": ("teacher", 3),
    "one assistant": ("big assistant", 1),
    "two assistants": ("small assistant", 1),
}


def arms(given, data, shape):
    """`{name: Arm}`, measured by accuracy and parameters."""

    def measure(seed, model, model_of):
        return {"accuracy": accuracy(model, data(given.on)), "parameters": model.count_params()}

    def arm(title, size, teacher, times):
        epochs = times * given.epochs
        train = functools.partial(step, title, size, teacher, epochs, given, data, shape)
        return Arm(train, measure)

    above = {"teacher": None, "big assistant": "teacher", "small assistant": "big assistant"}
    chain = {size: arm(size, size, teacher, 1) for size, teacher in above.items()}
    students = {
        f"student of {title}": arm(f"student of {title}", "student", *how)
        for title, how in STUDENTS.items()
    }
    return {**chain, **students}


def main(arguments=None):
    given = options("Teacher assistants against the straight way.", arguments,
                    out="runs/teacher_assistant", epochs=30, batch_size=32, alpha=0.5,
                    temperature=2.0)  # fmt: skip
    splits, data = images_of(given)
    compared(given, arms(given, data, splits["train"][0].shape[1:]))


if __name__ == "__main__":
    main()
