"""Pipelines whose iterators end at once."""

from keras_distill import taps  # noqa: F401 (the check of the backend)

import tensorflow as tf  # isort: skip: after the check of the backend in `taps`


def without_autotune(dataset):
    """A dataset without tf.data's autotuning, unless its options say whether to have it.

    When an iterator ends, TensorFlow (seen in 2.21) often misses the call that wakes its tuner,
    and waits for the tuner's next turn: as long again as the iterator lived, a minute at most. So
    an epoch, each validation and each `evaluate` may take twice the time, mostly where cores are
    few. Without the tuner `num_parallel_calls=tf.data.AUTOTUNE` is the number of cores, and
    `prefetch(tf.data.AUTOTUNE)` still finds its size.

    Args:
        dataset: a `tf.data.Dataset`; anything else is returned as it is.

    Returns:
        The same elements in the same order.

    Example:

    ```python
    model.fit(without_autotune(train), validation_data=without_autotune(valid), epochs=20)
    ```
    """
    if not isinstance(dataset, tf.data.Dataset) or dataset.options().autotune.enabled is not None:
        return dataset
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
