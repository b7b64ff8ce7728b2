"""The devices on which an experiment trains: one, several, or several workers."""

import contextlib
import os
import re

import keras

from keras_distill import _backend

MESH = re.compile(r"data:([1-9]\d*)(?:,model:([1-9]\d*))?")
STRATEGIES = ("none", "mirrored", "multi_worker", "parameter_server", "tpu")


def strategy_by_name(name):
    """Returns the `tf.distribute` strategy of a name, `None` for "none".

    Ask for "multi_worker" before TensorFlow runs anything.

    Args:
        name: one of `STRATEGIES`.

    Raises:
        ValueError: if the name is unknown, the backend is not TensorFlow, or the strategy cannot
            train.
    """
    if name not in STRATEGIES:
        raise ValueError(
            f"`strategy` must be one of {', '.join(STRATEGIES)}. Received: strategy={name!r}"
        )
    if name == "none":
        return None
    if _backend.NAME != "tensorflow":
        raise ValueError(
            "`strategy` needs the TensorFlow backend. On JAX, give a mesh such as 'data:8'. "
            f"Received: strategy={name!r} on {_backend.NAME}"
        )
    tf = _backend.tensorflow("A strategy")
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    if name == "multi_worker":
        if "TF_CONFIG" not in os.environ:
            raise ValueError(
                "`strategy='multi_worker'` needs the environment variable TF_CONFIG. Set it on "
                "each worker to the addresses of all workers."
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "parameter_server":
        raise ValueError(
            "`strategy='parameter_server'` cannot train, because Keras's `fit` has no coordinator "
            "for it. Choose 'mirrored' or 'multi_worker'."
        )
    return _tpu(tf)


def _tpu(tf):
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError, RuntimeError) as error:
        raise ValueError(
            f"`strategy='tpu'` finds no TPU that TensorFlow {tf.__version__} can use. The last "
            "release for TPUs is 2.20. Use the JAX backend on TPUs."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


class Mesh(keras.distribution.ModelParallel):
    """Splits each batch over `data` devices, and the last axis of matrices over `model` devices.

    Vectors, and matrices whose last axis cannot be divided, are whole on each device.

    Args:
        data: the number of parts of a batch, at least 1.
        model: the number of parts of a matrix, at least 1. Defaults to `1`, the whole matrix.

    Raises:
        ValueError: if there are fewer devices.
    """

    def __init__(self, data, model=1):
        devices = keras.distribution.list_devices()
        if data * model > len(devices):
            raise ValueError(
                f"`mesh` must name at most as many devices as JAX has, {len(devices)} here. "
                f"Received: {data} x {model} devices"
            )
        axes, devices = ("data", "model"), devices[: data * model]
        mesh = keras.distribution.DeviceMesh((data, model), axes, devices)
        super().__init__(layout_map=keras.distribution.LayoutMap(mesh), batch_dim_name="data")
        self.parts = model

    def get_variable_layout(self, variable):
        shape = variable.shape
        if len(shape) < 2 or self.parts == 1 or shape[-1] % self.parts:
            return super().get_variable_layout(variable)
        axes = (*[None] * (len(shape) - 1), "model")
        return keras.distribution.TensorLayout(axes, self.device_mesh)


def mesh_by_text(text):
    """Returns the `keras.distribution` of a text, for JAX. Its `scope()` makes it the current one.

    Args:
        text: "data:8" splits each batch over 8 devices. "data:4,model:2" does so over 4 groups of 2
            devices, which share each matrix.

    Raises:
        ValueError: if the text is of another form, the backend is not JAX, or there are too few
            devices.
    """
    if _backend.NAME != "jax":
        raise ValueError(
            "`mesh` needs the JAX backend. Set KERAS_BACKEND=jax, or give a strategy on TensorFlow."
            f" Received: mesh={text!r} on {_backend.NAME}"
        )
    found = MESH.fullmatch(text)
    if found is None:
        raise ValueError(
            "`mesh` must say how many devices share the data, and may say how many share the "
            f"model: 'data:8' or 'data:4,model:2'. Received: mesh={text!r}"
        )
    return Mesh(int(found[1]), int(found[2] or 1))


def check_batches(split, data):
    """Raises an error for batches that the current `keras.distribution` cannot split evenly.

    Keras splits each batch as it has split the first one. If a batch size is not known, this reads
    the data.

    Args:
        split: the name of the data, for the error message.
        data: a batched `tf.data.Dataset`.

    Raises:
        ValueError: if a batch cannot be divided by the number of its parts.
    """
    current = keras.distribution.distribution()
    parts = 1 if current is None else current.num_model_replicas
    if parts == 1:
        return
    specs = keras.tree.flatten(data.element_spec)
    known = {spec.shape[0] for spec in specs}
    sizes = (len(keras.tree.flatten(batch)[0]) for batch in data) if None in known else known
    wrong = next((size for size in sizes if size % parts), None)
    if wrong is not None:
        raise ValueError(
            f"The size of each batch must be a multiple of {parts}, the number of devices that "
            "share it. Change the mesh or batch size, or call `batch(..., drop_remainder=True)`."
            f" Received: a batch of {wrong} in the {split} split"
        )


class Devices:
    """The devices of one strategy.

    Args:
        strategy: a `tf.distribute.Strategy`. Defaults to `None`: one device.
    """

    def __init__(self, strategy=None):
        self.strategy = strategy

    def scope(self):
        """Returns the scope for making and compiling models."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    @property
    def are_workers(self):
        """Whether there are several workers, each a process of its own."""
        if self.strategy is None:
            return False
        tf = _backend.tensorflow("A strategy")
        return isinstance(self.strategy, tf.distribute.MultiWorkerMirroredStrategy)

    @property
    def write(self):
        """Whether this process writes files; of several workers the first one does."""
        if not self.are_workers:
            return True
        worker = self.strategy.cluster_resolver
        return worker.task_type == "chief" or not worker.task_id

    def wait(self):
        """Waits for all workers, so that all see what one of them has written before."""
        if self.are_workers:
            tf = _backend.tensorflow("A strategy")

            def sum_of_all():
                return tf.distribute.get_replica_context().all_reduce("SUM", tf.ones(()))

            tf.function(lambda: self.strategy.run(sum_of_all))()


def of_one_machine(what, strategy):
    """Returns the `Devices` of a strategy for work that users divide among machines themselves.

    Args:
        what: the function's name, for the error message.
        strategy: a `tf.distribute.Strategy`, or `None`.

    Raises:
        ValueError: if the strategy has several workers.
    """
    devices = Devices(strategy)
    if devices.are_workers:
        raise ValueError(
            f"`{what}` trains on one machine. Give `strategy='mirrored'`, or run a part of the "
            f"work on each machine, with a folder for each. Received: {strategy}"
        )
    return devices
