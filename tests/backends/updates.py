"""Fifty updates by every exported loss on the backend of this process; the weights go to a file.

    KERAS_BACKEND=jax python tests/backends/updates.py OUT.npz [LOSS ...]
"""

import inspect
import math
import pathlib
import sys

import keras
import numpy as np
from keras import layers

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from loss_families import CLASSES, family, leaves

from keras_distill import CachedTeacher, Distiller, Supervision, Term, losses

UPDATES = 50
# Their values hang on numbers that are drawn, and each backend draws its own.
DRAWN = ("ContrastiveRepresentation",)


def exported():
    found = {name: getattr(losses, name) for name in losses.__all__}
    return {n: kind for n, kind in found.items() if inspect.isclass(kind)
            and issubclass(kind, losses.DistillationLoss) and kind is not losses.DistillationLoss
            and n not in DRAWN}  # fmt: skip


def numbered(shape, side):
    """The structure of a shape with a name in the place of each leaf."""
    count = iter(range(len(leaves(shape))))

    def named(each):
        if isinstance(each, dict):
            return {key: named(value) for key, value in each.items()}
        if isinstance(each, list):
            return [named(value) for value in each]
        return f"{side}{next(count)}"

    return named(shape)


def student(shapes, random):
    """A network with one output for each shape, whose weights are NumPy's."""
    inputs = keras.Input((6,))
    hidden = layers.Dense(7, "tanh")(inputs)
    outputs = {}
    for name, shape in shapes.items():
        flat = layers.Dense(math.prod(shape[1:]))(hidden)
        outputs[name] = layers.Reshape(shape[1:], name=name)(flat)
    model = keras.Model(inputs, outputs)
    for weight in model.weights:
        weight.assign(0.4 * random.normal(size=weight.shape))
    return model


def trained(name, kind):
    """The weights after fifty updates, and the term's value in the last of them."""
    usual, random = family(kind), np.random.default_rng(0)
    shape = usual.shapes[0]
    theirs = usual.teacher_of(shape)
    ours = {f"s{i}": each for i, each in enumerate(leaves(shape))}
    count = leaves(shape)[0][0]
    model = student(ours, random)
    targets = {
        f"t{i}": random.integers(0, CLASSES, each) if len(each) == 1
        else usual.scale * random.normal(size=each).astype("float32")
        for i, each in enumerate(leaves(theirs))
    }  # fmt: skip
    x = random.normal(size=(count, 6)).astype("float32")
    leading = (count, *usual.labels) if usual.labels else leaves(shape)[0][:-1]
    leading = leading if usual.labels or len(leading) < 3 else leading[:1]
    labels = np.indices(leading).sum(0) % CLASSES
    paths = keras.tree.map_structure(lambda each: f"output:{each}", numbered(shape, "s"))
    loss = kind(**(usual.arguments or {}))
    term = Term(loss, student=paths, teacher=numbered(theirs, "t"), name="term")
    if loss.stateful:
        raise ValueError(f"{name} draws its own weights")
    distiller = Distiller(model, teacher=CachedTeacher(), terms=[term], alpha=1.0)
    distiller.compile(keras.optimizers.SGD(0.01, clipnorm=1.0))
    history = distiller.fit(
        x, Supervision(labels, targets), batch_size=count, epochs=UPDATES, shuffle=False, verbose=0
    ).history
    flat = np.concatenate([np.asarray(w, "float64").ravel() for w in model.get_weights()])
    return np.append(flat, history["term"][-1])


def main(path, *names):
    found = {}
    for name, kind in exported().items():
        if names and name not in names:
            continue
        found[name] = trained(name, kind)
    np.savez(path, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
