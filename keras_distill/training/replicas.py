"""Sums and gathers over the replicas of `tf.distribute`; without them nothing changes."""

import keras
from keras import ops, tree

from keras_distill import _backend
from keras_distill._keras import optimizers, trainer
from keras_distill._keras.layers import mask_of
from keras_distill.losses.plain import argument_of
from keras_distill.training import weights

SUMS = ("sum", "none", None)  # reductions without a division


def _context():
    """Returns the replica context if there are several replicas, else `None`."""
    if _backend.NAME != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


def are_several():
    """Returns whether this code runs on one of several replicas."""
    return _context() is not None


def total(value):
    """Returns the sum of a tensor over all replicas, or of a list of tensors."""
    context = _context()
    return value if context is None else context.all_reduce("SUM", value)


def shares(optimizer, gradients):
    """Returns one replica's gradients for an optimizer that needs the sum over all replicas.

    Keras clips the gradients of each replica, and if it scales the loss it judges those of the
    first one. For such an optimizer every replica gets the same share of the sum, clipped as on one
    device. Keras's own clipping leaves this share as it is.

    Args:
        optimizer: the optimizer.
    """
    clips, scales = optimizers.clips(optimizer), optimizers.scales(optimizer)
    if _context() is None or not (clips or scales):
        return gradients
    sums = total([ops.convert_to_tensor(g) for g in gradients if g is not None])  # none is sparse
    sums = optimizers.clipped(optimizer, sums) if clips else sums
    found = iter([value / _context().num_replicas_in_sync for value in sums])
    return [None if g is None else next(found) for g in gradients]


def label_loss(model, labels, output, sample_weight):
    """Returns the compiled loss of a model over the batch of all replicas.

    Each replica returns its part, and the sum of the parts is what one device measures. Keras takes
    the mean of the replicas' means, which differs if their batches have unequal weights.

    Args:
        model: a compiled model.
        labels, output, sample_weight: the values of this replica, as the compiled loss takes them.
    """
    share = None if _context() is None else _share
    return trainer.label_loss(model, labels, output, sample_weight, share)


def _share(value, loss, y_true, y_pred, sample_weight):
    """Returns this replica's part of the mean over all; Keras's mean is divided already."""
    count = _count(loss, y_true, y_pred, sample_weight)
    if count is None:
        return value
    part = ops.divide_no_nan(count * _context().num_replicas_in_sync, total(count))
    return value * ops.cast(part, value.dtype)


def _count(loss, y_true, y_pred, sample_weight):
    """Returns the divisor of a loss's sum, as far as replicas differ in it."""
    if loss.reduction in SUMS:
        return None
    mask = mask_of(y_pred)
    sparse = isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
    ignored = argument_of(loss, "ignore_class", None)
    if sparse and ignored is not None:
        known = ops.not_equal(ops.reshape(y_true, ops.shape(y_pred)[:-1]), ignored)
        mask = known if mask is None else ops.logical_and(known, mask)
    if mask is not None:
        mask = ops.cast(mask, "float32")
    if loss.reduction != "mean_with_sample_weight" or sample_weight is None:
        size = ops.cast(ops.shape(y_pred)[0], "float32")
        return size if mask is None else ops.sum(mask)
    weight = ops.cast(sample_weight, "float32")
    if mask is None:
        return ops.sum(weight)
    return ops.sum(mask * weights.expanded(weight, len(mask.shape)))


def gathered(structure):
    """Gathers the tensors of all replicas along the batch axis."""
    context = _context()
    if context is None:
        return structure

    def gather(value):
        return context.all_gather(value, axis=0) if ops.is_tensor(value) else value

    return tree.map_structure(gather, structure)
