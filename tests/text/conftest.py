"""Datasets tokenize by one graph for each vocabulary, which KerasHub traces for half a second."""

import functools

import keras
import pytest
import tensorflow as tf
from whole import WHOLE

STRINGS = tf.TensorSpec([None], tf.string)


@pytest.fixture(scope="package", autouse=True)
def _tokenized_by_one_graph():
    """With `WHOLE` each dataset traces its own, as it does for users."""
    preprocessor = pytest.importorskip("keras_hub").models.TextClassifierPreprocessor
    with pytest.MonkeyPatch.context() as patch:
        if not WHOLE:
            patch.setattr(preprocessor, "_call_tf", traced_once(preprocessor._call_tf))
        yield


def traced_once(method):
    traced = {}

    @functools.wraps(method)
    def run(self, x, y=None, sample_weight=None):
        if tf.executing_eagerly() or not (tf.is_tensor(x) and STRINGS.is_compatible_with(x)):
            return method(self, x, y=y, sample_weight=sample_weight)
        tokens = self.tokenizer
        key = type(self), self.sequence_length, tokens.lowercase, *tokens.get_vocabulary()
        if key not in traced:
            with tf.init_scope():
                function = tf.function(functools.partial(method, self))
                traced[key] = function.get_concrete_function(STRINGS)
        return keras.utils.pack_x_y_sample_weight(traced[key](x), y, sample_weight)

    return run
