"""Layers that run in a graph inside TensorFlow's graph."""

import keras
import pytest
from kinds import X, dense, only_tensorflow

from keras_distill import taps

tf = pytest.importorskip("tensorflow")
pytestmark = only_tensorflow


class Inside(keras.Model):
    """Calls its layer in another graph."""

    def __init__(self, how, **kwargs):
        super().__init__(**kwargs)
        self.how = how
        self.inner = dense(6, "inner")
        self.inner.build((None, 6))

    def call(self, x):
        if self.how == "cond":
            return tf.cond(tf.reduce_sum(x) > 0, lambda: self.inner(x), lambda: x)
        body = lambda i, x: (i + 1, self.inner(x))  # noqa: E731
        return tf.while_loop(lambda i, x: i < 2, body, (tf.constant(0), x))[1]


@pytest.mark.parametrize("how", ["cond", "while_loop"])
def test_a_tap_inside_another_graph_says_so(how):
    model = Inside(how)
    look = tf.function(lambda x: taps.run(model, x, ["inner"]), autograph=False)
    with pytest.raises(ValueError, match=r"inner[\s\S]*while_loop[\s\S]*cond"):
        look(tf.constant(X))
