"""Teachers' functions that return NumPy arrays, such as those of scikit-learn or ONNX Runtime."""

import keras
import numpy as np
from keras import ops, tree

from keras_distill import _backend


class OnHost:
    """A function of the inputs that may return tensors or NumPy arrays.

    The first call shows which it returns. A distiller makes this call eagerly, with the first
    batch. A function that returns tensors becomes part of the compiled step. The step calls a
    function that returns NumPy arrays with each batch. This function gets tensors that have values,
    as in the first call.

    Args:
        function: a function of the inputs.
    """

    def __init__(self, function):
        self.function, self._answer = function, None

    def __call__(self, x):
        symbolic = any(_backend.is_symbolic(value) for value in tree.flatten(x))
        if symbolic and self._answer is not None:
            return self._called_back(x)
        answer = self.function(x)
        if symbolic or not any(isinstance(each, np.ndarray) for each in tree.flatten(answer)):
            return answer
        answer = tree.map_structure(_standard, answer)
        self._answer = tree.map_structure(_Form, answer)
        return tree.map_structure(ops.convert_to_tensor, answer)

    def _called_back(self, x):
        def call(*flat):
            answer = self.function(tree.pack_sequence_as(x, flat))
            return [_standard(each) for each in tree.flatten(answer)]

        flat, forms = tree.flatten(x), tree.flatten(self._answer)
        found = _CALLS[_backend.NAME](call, flat, forms)
        return tree.pack_sequence_as(self._answer, found)


class _Form:
    """The dtype of an array, and its shape without the batch."""

    def __init__(self, array):
        self.dtype, self.shape = str(array.dtype), array.shape[1:]


def _standard(value):
    """Returns an array with a dtype that every backend has."""
    value = np.asarray(value)
    if value.dtype.kind == "f":
        return value.astype(keras.config.floatx())
    return value.astype("int32") if value.dtype.kind in "iu" else value


def _from_graph(call, flat, forms):
    tf = _backend.tensorflow("A teacher that answers in NumPy")
    found = tf.py_function(call, flat, [form.dtype for form in forms])
    for value, form in zip(found, forms):
        value.set_shape([None] * len(form.shape) + list(form.shape[-1:]))
    return found


def _from_jit(call, flat, forms):
    import jax

    shapes = [jax.ShapeDtypeStruct((flat[0].shape[0], *form.shape), form.dtype) for form in forms]
    return jax.pure_callback(call, shapes, *flat)


_CALLS = {"tensorflow": _from_graph, "jax": _from_jit}
