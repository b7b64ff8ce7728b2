"""Turns off tf.data's autotuning, so that iterators end at once."""

import sys
from typing import Any


def without_autotune(dataset: Any) -> Any:
    """Returns a dataset without tf.data's autotuning, unless its options set autotuning.

    When an iterator ends, TensorFlow often misses the call that wakes its tuner. It then waits as
    long again as the iterator lived, up to a minute. So an epoch, each validation and each
    `evaluate` may take twice the time, mostly on machines with few cores. Without the
    tuner `num_parallel_calls=tf.data.AUTOTUNE` is the number of cores, and
    `prefetch(tf.data.AUTOTUNE)` still finds its size.

    This works around a fault in TensorFlow 2.21. To see whether your version needs it, time
    `list(dataset)` with it and without it. If both take the same time, remove the call.

    Args:
        dataset: a `tf.data.Dataset`. Anything else is returned unchanged.

    Returns:
        The same elements in the same order.

    Example:

    ```python
    distiller = Distiller(student, teacher=teacher)
    distiller.compile("adam", loss)
    distiller.fit(data.without_autotune(dataset))
    ```
    """
    tf = sys.modules.get("tensorflow")  # whoever made a dataset has imported it
    if tf is None or not isinstance(dataset, tf.data.Dataset):
        return dataset
    if dataset.options().autotune.enabled is not None:
        return dataset
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
