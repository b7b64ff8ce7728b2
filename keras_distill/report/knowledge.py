"""Knowledge that a student has taken over from its teacher: similar layers, and shared doubt."""

import keras
import numpy as np

from keras_distill.report.cka_heat_map import cka_heat_map, layers_of
from keras_distill.report.doubts import scaled
from keras_distill.report.measures import divergences
from keras_distill.report.texts import plain

EXAMPLES = 256  # the number of examples on which features are compared
LAYERS = 20  # the most layers of each side that a map can show legibly
SHOWN = 6
TEXT = 200  # characters of a text


def alike_layers(student, teacher, x):
    """Returns the linear CKA of the layers of two models, of at most 20 layers each.

    Args:
        student: a built `keras.Model`.
        teacher: a built `keras.Model`.
        x: inputs, of which the first 256 are used.

    Returns:
        A dict. `cka` has a list for each layer of the teacher, with a number for each of the
        student's. `student` and `teacher` are the layers' paths, and `examples` is their number. Or
        `None` if the model's layers cannot be run one by one.
    """
    x = keras.tree.map_structure(lambda each: each[:EXAMPLES], x)
    if any(each.dtype.kind not in "fiub" for each in keras.tree.flatten(x)):
        return None
    try:
        paths = [_spread(layers_of(model)) for model in (student, teacher)]
        cka, ours, theirs = cka_heat_map(student, teacher, x, student_paths=paths[0],
                                         teacher_paths=paths[1])  # fmt: skip
    except ValueError:  # its layers cannot be tapped
        return None
    examples = len(keras.tree.flatten(x)[0])
    return {"cka": cka.tolist(), "student": ours, "teacher": theirs, "examples": examples}


def _spread(paths):
    """Returns at most `LAYERS` of the layers, the first and the last included."""
    at = np.unique(np.linspace(0, len(paths) - 1, LAYERS).round().astype(int))
    return [paths[i] for i in at]


def soft_targets(x, labels, log_probs, teacher, better=None, worse=None):
    """Returns the examples that the teacher is least sure of, with each model's probabilities.

    With `better` and `worse` it takes only examples on which `better` is nearer to the teacher.

    Args:
        x: the inputs. Images are kept as pictures, and texts by their beginning.
        labels: integer classes, `(n,)`.
        log_probs: `{model: (n, classes)}`.
        teacher: the teacher's name.
        better: the name of a model. Defaults to `None`.
        worse: the name of another model. Defaults to `None`.

    Returns:
        A list of dicts of `label`, `probabilities` and, for images, `image`, for texts, `text`.
    """
    theirs = log_probs[teacher]
    entropy = -np.sum(np.exp(theirs) * np.maximum(theirs, -1e30), -1)
    nearer = np.ones(len(theirs), bool)
    if better is not None and worse is not None:
        nearer = divergences(theirs, log_probs[better]) < divergences(theirs, log_probs[worse])
    nearer &= np.logical_and.reduce([~np.isnan(p).any(-1) for p in log_probs.values()])
    order = [i for i in np.argsort(-entropy, kind="stable") if nearer[i]][:SHOWN]
    images = keras.tree.flatten(x)
    shape = images[0].shape
    drawn = len(images) == 1 and (len(shape) == 3 or (len(shape) == 4 and shape[-1] in (1, 3, 4)))
    drawn = drawn and images[0].dtype.kind in "fiu" and min(shape[1:3]) >= 4
    picture = scaled(images[0]) if drawn else None
    written = images[0].dtype.kind in "OSU" and images[0][:1].size == 1
    return [
        {
            "label": int(labels[i]),
            "probabilities": {name: np.exp(p[i]).tolist() for name, p in log_probs.items()},
            **({"image": picture(images[0][i])} if drawn else {}),
            **({"text": plain(np.ravel(images[0][i])[0])[:TEXT]} if written else {}),
        }
        for i in order
    ]
