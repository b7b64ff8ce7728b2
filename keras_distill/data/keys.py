"""The key of a row: a key column, or a hash of the input."""

import keras

from keras_distill._backend import tensorflow

tf = tensorflow("A cache of targets")


class Keys:
    """Computes a batch's keys, in the graph of the input pipeline.

    Args:
        key: `None` for a hash of the inputs; the name of an entry in a dict of inputs, which is
            removed for models; or a function of `(x, y)` that returns (batch,) integers or strings.
        views: the stored views of each example.
        augment: a function `(example, seed)` that makes a view of one example without the batch
            axis. The same seed (2,) gives the same view.
    """

    def __init__(self, key=None, views=1, augment=None):
        if not (key is None or isinstance(key, str) or callable(key)):
            raise TypeError(f"`key` must be a name, a function or `None`. Received: key={key!r}")
        if not isinstance(views, int) or views < 1 or (views > 1 and augment is None):
            raise ValueError(
                "`views` must be a positive integer. More than one view needs `augment`, a "
                f"function `(example, seed)`. Received: views={views}, augment={augment}"
            )
        self.key, self.views, self.augment = key, views, augment

    def __call__(self, data, view):
        """Returns `(x, y, sample_weight, keys, hashes)` of a batch.

        `view` is the number of the stored view, one for all examples or one for each. The hashes
        are of the inputs that a model sees.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x, keys = self._taken(x, y)
        if self.augment is not None:
            view = tf.broadcast_to(tf.cast(view, tf.int64), tf.shape(keys))
            keys = hashed([keys, view])
            seeds = tf.cast(tf.stack([keys, keys // 2**32], -1) & (2**31 - 1), tf.int32)
            x = tf.map_fn(lambda one: self.augment(*one), (x, seeds), fn_output_signature=_spec(x))
        hashes = hashed(x) if self.key is not None or self.augment is not None else keys
        return x, y, sample_weight, keys, hashes

    def _taken(self, x, y):
        if self.key is None:
            return x, hashed(x)
        if callable(self.key):
            keys = self.key(x, y)
        elif not isinstance(x, dict) or self.key not in x:
            there = ", ".join(x) if isinstance(x, dict) else "no names, since they are not a dict"
            raise ValueError(f"`key` must be a name of an input. Received: key={self.key!r}. The "
                             f"inputs have {there}")  # fmt: skip
        else:
            x = dict(x)
            keys = x.pop(self.key)
        return x, _as_int64(keys)


def hashed(structure):
    """Returns a 64-bit hash of each row of a structure of tensors, (batch,)."""
    leaves = [leaf for leaf in tf.nest.flatten(structure) if leaf is not None]
    for leaf in leaves:
        if not isinstance(leaf, tf.Tensor) or leaf.shape.rank == 0:
            raise ValueError(
                "The cache identifies an example by its inputs, which must be dense tensors of "
                f"shape (batch, ...). Received: {leaf}"
            )
    hashes = [tf.fingerprint(leaf) for leaf in leaves]
    whole = hashes[0] if len(hashes) == 1 else tf.fingerprint(tf.concat(hashes, -1))
    return tf.bitcast(whole, tf.int64)


def _as_int64(keys):
    if keys.shape.rank == 2 and keys.shape[1] == 1:
        keys = tf.squeeze(keys, 1)
    if keys.shape.rank != 1 or not (keys.dtype.is_integer or keys.dtype == tf.string):
        raise ValueError(
            "Keys must be integers or strings, one for each example. Received: "
            f"{keys.dtype.name} of shape {keys.shape}"
        )
    return hashed(keys) if keys.dtype == tf.string else tf.cast(keys, tf.int64)


def _spec(x):
    return tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape[1:], t.dtype), x)
