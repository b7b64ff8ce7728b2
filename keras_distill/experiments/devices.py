"""Over which devices an experiment trains: one, several, or several workers."""

import contextlib
import os

from keras_distill import _backend

STRATEGIES = ("none", "mirrored", "multi_worker", "parameter_server", "tpu")


def strategy_by_name(name):
    """The `tf.distribute` strategy of a name, `None` for "none".

    "multi_worker" must be asked for before TensorFlow runs anything.

    Args:
        name: one of `STRATEGIES`.

    Raises:
        ValueError: for an unknown name, another backend than TensorFlow, and what cannot train.
    """
    if name not in STRATEGIES:
        raise ValueError(
            f"`strategy` must be one of {', '.join(STRATEGIES)}. Received: strategy={name!r}"
        )
    if name == "none":
        return None
    if _backend.NAME != "tensorflow":
        raise ValueError(
            f"`strategy` needs the TensorFlow backend. On {_backend.NAME}, call "
            "`keras.distribution.set_distribution` in the experiment's file. Received: "
            f"strategy={name!r}"
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


class Devices:
    """The devices of one strategy.

    Args:
        strategy: a `tf.distribute.Strategy`. Defaults to `None`: one device.
    """

    def __init__(self, strategy=None):
        self.strategy = strategy

    def scope(self):
        """The scope in which models are made and compiled."""
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
        """Whether this process writes files: of several workers the first one does."""
        if not self.are_workers:
            return True
        worker = self.strategy.cluster_resolver
        return worker.task_type == "chief" or not worker.task_id

    def wait(self):
        """Waits for all workers: what one of them has written before is there for all."""
        if self.are_workers:
            tf = _backend.tensorflow("A strategy")

            def sum_of_all():
                return tf.distribute.get_replica_context().all_reduce("SUM", tf.ones(()))

            tf.function(lambda: self.strategy.run(sum_of_all))()
