"""The backend that Keras runs on, the oldest tested Keras, and TensorFlow if it is installed."""

import contextlib
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
    """Returns TensorFlow for features that need it on every backend: tf.data, TFRecord, SavedModel.

    Args:
        feature: the feature that needs it, for the error message.

    Raises:
        ImportError: if TensorFlow is not installed.
    """
    try:
        return importlib.import_module("tensorflow")
    except ImportError as error:
        raise ImportError(
            f"{feature} needs TensorFlow on every backend. Run `pip install tensorflow`."
        ) from error


def is_symbolic(tensor):
    """Returns whether a tensor is symbolic: a part of a traced graph, without a value yet."""
    if NAME == "tensorflow":
        return importlib.import_module("tensorflow").is_symbolic_tensor(tensor)
    if NAME == "jax":
        return isinstance(tensor, importlib.import_module("jax").core.Tracer)
    return False


def gpu_capability():
    """Returns the compute capability of the first NVIDIA GPU, (major, minor), or `None`."""
    if NAME == "tensorflow":
        config = importlib.import_module("tensorflow").config
        gpus = config.list_physical_devices("GPU")
        details = config.experimental.get_device_details(gpus[0]) if gpus else None
        return None if details is None else details.get("compute_capability", (0, 0))
    if NAME == "torch":
        cuda = importlib.import_module("torch").cuda
        return cuda.get_device_capability() if cuda.is_available() else None
    devices = importlib.import_module("jax").devices()
    if devices[0].platform != "gpu":
        return None
    return tuple(int(part) for part in str(devices[0].compute_capability).split("."))


def scope_of(model):
    """Returns the scope for a model's variables: that of its `tf.distribute` strategy."""
    if NAME == "tensorflow":
        return model.distribute_strategy.scope()
    return contextlib.nullcontext()
