"""Holds the layers that train or move beside the student, so that Keras tracks them."""

import keras


class Kept(keras.layers.Layer):
    """Holds layers. It is never called, so more layers may be added at any time."""

    def __init__(self):
        super().__init__(name="kept")
        self.parts, self.numbers = [], {}
        self.built = True

    def build(self, input_shape=None):
        """Does nothing: without `build` Keras would lock the layer when it is made."""

    def hold(self, layers):
        """Adds layers that are not held yet."""
        held = {id(layer) for layer in self.parts}
        for layer in layers:
            if id(layer) not in held:
                self.parts.append(layer)

    def number(self, name, value):
        """Returns a saved number by its name, a variable that is made once and not trained."""
        if name not in self.numbers:
            self.numbers[name] = Number(value, name=f"kept_{len(self.numbers)}")
        return self.numbers[name].value


class Number(keras.layers.Layer):
    """A layer that holds one number.

    Args:
        start: the first value of the number.
        **kwargs: as in `keras.layers.Layer`.
    """

    def __init__(self, start, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.value = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(float(start)), trainable=False,
            name="value",
        )  # fmt: skip
        self.built = True
