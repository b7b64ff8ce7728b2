"""
# Teacher assistants: steps between a big teacher and a small student

A teacher that is much larger than its student can be a worse teacher than a smaller one. A teacher
assistant has a size between them. The assistant learns from the teacher, and the student learns
from the assistant (Mirzadeh et al., 2020, https://arxiv.org/abs/1902.03393). In this example a
student learns from labels alone, from the teacher, from one assistant, or from the last of two
assistants.

    python examples/teacher_assistant.py --seeds=1

It took a minute of CPU time on scikit-learn's 8 x 8 digits. The table shows the accuracy on the 600
test images in percent, with one seed:

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

The longer training gained five points, and the assistants gained nothing. One seed says little,
because the standard error of an accuracy is 1.5 points here. `--seeds=3` adds two seeds to this
run.

The default data are scikit-learn's 8 x 8 digits. `--data=DIR` reads the four idx `.gz` files of
Fashion-MNIST from the folder `DIR`, and `--tfds=fashion_mnist` downloads Fashion-MNIST. `--tiny`
runs everything in under a minute, with numbers that mean nothing.
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

Every step of a chain is the same call. The `Distiller` gets the model of the step before as its
teacher. The step returns a plain Keras model, so that a chain can end anywhere.
"""


def step(title, size, teacher, epochs, given, data, shape, seed, model_of):
    """Trains a network of one size on the labels and, if there is one, on a teacher."""
    net = made(seed, network, shape, SIZES[size], name=size.replace(" ", "_"))
    scheme = {}
    if teacher is not None:
        terms = [Term(losses.KLDivergence(given.temperature))]
        scheme = {"teacher": model_of(teacher), "terms": terms, "alpha": given.alpha}
    return trained(title, net, data, epochs, seed, **scheme)


"""
## The comparison

A chain also trains its assistants, so it takes more epochs than a single step. Two students without
assistants get as many epochs as the longest chain. If they are as good as the chain, the chain
gains only by its longer training. All students start from the same weights.
"""

STUDENTS = {  # the student's teacher, and the factor of its epochs
    "labels": (None, 1),
    "labels, three times as long": (None, 3),
    "teacher": ("teacher", 1),
    "teacher, three times as long": ("teacher", 3),
    "one assistant": ("big assistant", 1),
    "two assistants": ("small assistant", 1),
}


def arms(given, data, shape):
    """Returns `{name: Arm}`. Every arm is measured by its accuracy and parameters."""

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
    given = options("Compares teacher assistants with a single step.", arguments,
                    out="runs/teacher_assistant", epochs=30, batch_size=32, alpha=0.5,
                    temperature=2.0)  # fmt: skip
    splits, data = images_of(given)
    compared(given, arms(given, data, splits["train"][0].shape[1:]))


if __name__ == "__main__":
    main()
