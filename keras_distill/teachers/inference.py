"""Runs a teacher's model: only the parts that are needed, in its precision, compiled or not."""

import contextlib

import keras
from keras import ops

from keras_distill import _backend, taps
from keras_distill._keras.layers import logits_of, set_logits
from keras_distill._messages import say
from keras_distill.teachers import partial, precision
from keras_distill.teachers.on_host import OnHost


class Inference:
    """Runs a frozen model, in inference mode, and returns `{path: value}`.

    Args:
        model: a Keras model or a function.
        dtype: `None`, or what `precision.chosen` returns.
        jit_compile: whether XLA compiles the model, as a function of its own.
        logits: whether outputs of several units are logits, and not hidden states.

    Attributes:
        errors: the errors of the precision on the first batch; `None` before it.
    """

    def __init__(self, model, dtype=None, jit_compile=False, logits=True):
        self.dtype = dtype
        self.jit_compile, self.logits = jit_compile, logits
        self.model = precision.quantized(model) if dtype == "int8" else model
        self.errors, self._on_host = None, OnHost(self.model)
        self._parts, self._functions = {}, {}

    def get_config(self):
        """Returns the settings that change the targets."""
        return {"dtype": self.dtype if self.lowers else None}

    @property
    def lowers(self):
        """Whether it computes otherwise than the model does."""
        return self.dtype not in (None, "float32")

    def __call__(self, x, paths):
        paths = tuple(paths)
        if not self.jit_compile:
            return self._run(x, paths)
        found, logits = self._function(x, paths)(x)
        for value, behind in zip(keras.tree.flatten(found), logits):
            if behind is not None:
                set_logits(value, behind)
        return found

    def examine(self, x, paths, model):
        """Compares the precision with float32 on a batch; raises an error if it is too coarse."""
        if not self.lowers:
            return
        expected = taps.run(partial.part_of(model, paths), x, paths, owner=model)
        self.errors = precision.errors(expected, self(x, paths), self.logits)
        precision.check(model, self.dtype, self.errors)
        shown = ", ".join(f"{measure} {error:.1g} at `{path}`"
                          for path, (measure, error, _) in self.errors.items())  # fmt: skip
        say(f"The teacher `{model.name}` runs in {self.dtype}. Its errors against float32 are "
            f"{shown}.")  # fmt: skip

    def _run(self, x, paths):
        if not isinstance(self.model, keras.layers.Layer):
            return taps.run(self._on_host, x, paths)
        if paths not in self._parts:
            self._parts[paths] = partial.part_of(self.model, paths)
        part = self._parts[paths]
        with self._precision(part):
            found = taps.run(part, x, paths, owner=self.model)
        return keras.tree.map_structure(_as_float32, found) if self.lowers else found

    def _precision(self, part):
        if self.dtype in (None, "float32", "int8"):
            return contextlib.nullcontext()
        return precision.computing(part, self.dtype)

    def _function(self, x, paths):
        """Returns the compiled function for batches of any size; it is made once."""
        tf = _backend.tensorflow("`ModelTeacher(jit_compile=True)`")
        spec = keras.tree.map_structure(_of_any_batch, x)
        key = paths, str(spec)
        if key not in self._functions:

            def answer(x):
                found = self._run(x, paths)
                values = keras.tree.flatten(found)
                behind = [logits_of(v) for v in values]
                return found, behind

            self._functions[key] = tf.function(answer, input_signature=[spec], jit_compile=True)
        return self._functions[key]


def _of_any_batch(tensor):
    tf = _backend.tensorflow("`ModelTeacher(jit_compile=True)`")
    return tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype)


def _as_float32(tensor):
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if "float" not in dtype or dtype == "float32":
        return tensor
    wide = ops.cast(tensor, "float32")
    if logits_of(tensor) is not None:
        set_logits(wide, ops.cast(logits_of(tensor), "float32"))
    return wide
