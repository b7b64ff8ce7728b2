"""Shows which layers of a student resemble which layers of its teacher."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import keras
import numpy as np

from keras_distill import taps
from keras_distill.batch import Batch
from keras_distill.teachers import ModelTeacher, Teacher


def cka_heat_map(
    student: keras.Model,
    teacher: Any,
    x: Any,
    filepath: str | PathLike[str] | None = None,
    *,
    student_paths: Sequence[str] | None = None,
    teacher_paths: Sequence[str] | None = None,
) -> tuple:
    """Returns the linear CKA of every pair of layers, and draws it if there is a `filepath`.

    `cka(X, Y) = <XX', YY'> / (|XX'| |YY'|)` of features that are flattened to one row per example
    and centered. It is in [0, 1], and 1 if the features are equal up to rotation and scale. With
    few examples for the features' width it is too high, so give a few hundred.

    Args:
        student: a built Keras model.
        teacher: a built Keras model or a `Teacher`.
        x: a batch of inputs.
        filepath: the file to write, a PNG or of another format by its ending. Defaults to `None`,
            which is no picture. It needs matplotlib.
        student_paths: the layers to show. Defaults to those with weights, without normalizations.
        teacher_paths: the same for the teacher. A teacher that is no Keras model needs them.

    Returns:
        `(cka, student_paths, teacher_paths)`, `cka` of shape (teacher's layers, student's).

    Raises:
        ValueError: if no layer is found.

    Example:

    ```python
    cka, _, _ = report.cka_heat_map(student, teacher, x, "cka.png")
    ```

    Reference:
        - [Kornblith et al., 2019](https://arxiv.org/abs/1905.00414)
    """
    source = teacher if isinstance(teacher, Teacher) else ModelTeacher(teacher)
    student_paths = student_paths or layers_of(student)
    teacher_paths = teacher_paths or layers_of(getattr(source, "model", None))
    batch = Batch(keras.tree.map_structure(keras.ops.convert_to_tensor, x), None, None, None)
    features = taps.run(student, batch.x, student_paths)
    targets = source.targets(batch, features, teacher_paths)
    ours = [_gram(features[path]) for path in student_paths]
    theirs = [_gram(targets[path]) for path in teacher_paths]
    cka = np.array([[np.sum(one * other) for one in ours] for other in theirs])
    if filepath is not None:
        _draw(cka, student_paths, teacher_paths, filepath)
    return cka, student_paths, teacher_paths


def _gram(feature):
    """Returns the products of the centered examples, scaled to length one, or zero."""
    rows = rows_of(feature)
    rows = rows - rows.mean(axis=0)
    gram = rows @ rows.T
    length = np.linalg.norm(gram)
    return gram / length if length > 0 else gram


def rows_of(feature):
    """Returns a feature as one row of numbers per example."""
    array = keras.ops.convert_to_numpy(keras.ops.cast(feature, "float32"))
    return array.reshape(len(array), -1).astype("float64")


def layers_of(model):
    """Returns the paths of the layers with weights, without normalizations."""
    if not isinstance(model, keras.layers.Layer):
        raise ValueError("The teacher is not a Keras model, so it has no layers. Give paths.")
    # a cell of an RNN returns its states, too
    paths = [path for path, shape in taps.shapes(model).items() if _is_tensor(shape)]
    found = [path for path in paths if _shows(model, path, paths)]
    if not found:
        raise ValueError(f"`{model.name}` has no layers with weights. Give paths.")
    return found


def _is_tensor(shape):
    """Returns whether a shape is that of one tensor with an axis of features."""
    return (isinstance(shape, tuple) and len(shape) > 1
            and all(size is None or isinstance(size, int) for size in shape))  # fmt: skip


def _shows(model, path, paths):
    if taps.is_edge(path):
        return False
    layer = taps.find_layer(model, path)
    inner = any(other.startswith(f"{path}/") for other in paths)
    return bool(layer.weights) and not inner and "Normalization" not in type(layer).__name__


def check_drawable(student, teacher):
    """Raises the errors of a picture of all layers: no matplotlib, or no layers."""
    _figure_class()
    for model in (student, getattr(teacher, "model", None)):
        layers_of(model)


def _figure_class():
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "A picture needs matplotlib. Run `pip install keras-distill[examples]`."
        ) from error
    return Figure


def _draw(cka, student_paths, teacher_paths, filepath):
    size = [3 + 0.35 * len(paths) for paths in (student_paths, teacher_paths)]
    figure = _figure_class()(figsize=size, layout="constrained")
    axis = figure.add_subplot()
    image = axis.imshow(cka, vmin=0, vmax=1, origin="lower", cmap="magma", aspect="auto")
    axis.set_xticks(range(len(student_paths)), student_paths, rotation=90, fontsize=7)
    axis.set_yticks(range(len(teacher_paths)), teacher_paths, fontsize=7)
    axis.set(xlabel="student", ylabel="teacher", title="linear CKA")
    figure.colorbar(image)
    figure.savefig(filepath, dpi=150)
