"""Sums and batches over the replicas of `tf.distribute`; elsewhere a step sees the whole batch."""

from keras import ops, tree

from keras_distill import _backend


def _context():
    """The replica that this code runs in, where there are several, else `None`."""
    if _backend.NAME != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


def total(value):
    """The sum of a tensor over all replicas, or of a list of tensors."""
    context = _context()
    return value if context is None else context.all_reduce("SUM", value)


def gathered(structure):
    """Tensors of all replicas, one behind the other along the batch."""
    context = _context()
    if context is None:
        return structure

    def gather(value):
        return context.all_gather(value, axis=0) if ops.is_tensor(value) else value

    return tree.map_structure(gather, structure)
