"""The backend that Keras runs on, the oldest Keras that was tested, and TensorFlow where it is."""

import importlib

import keras

NAME = keras.backend.backend()
OLDEST = (3, 12)

if tuple(int(part) for part in keras.version().split(".")[:2]) < OLDEST:
    raise ImportError(
        f"`keras_distill` needs Keras {OLDEST[0]}.{OLDEST[1]} or later. Received: Keras "
        f"{keras.version()}. Run `pip install --upgrade keras`."
    )


def tensorflow(feature):
    """TensorFlow, for what is its own on every backend: tf.data, TFRecord, SavedModel.

    Args:
        feature: what needs it, as the error names it.

    Raises:
        ImportError: where TensorFlow is not installed.
    """
    try:
        return importlib.import_module("tensorflow")
    except ImportError as error:
        raise ImportError(
            f"{feature} needs TensorFlow, on every backend: run `pip install tensorflow`."
        ) from error
