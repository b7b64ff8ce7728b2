"""Centered kernel alignment over many batches."""

import keras
from keras import ops

from keras_distill.losses import geometry, masks
from keras_distill.losses.arithmetic import flat


@keras.saving.register_keras_serializable(package="keras_distill")
class CKA(keras.metrics.Metric):
    """Linear centered kernel alignment of two representations, over many batches.

    `cka = sum_b HSIC(K_b, L_b) / sqrt(sum_b HSIC(K_b, K_b) * sum_b HSIC(L_b, L_b))` over the
    batches `b`, with the products `K = X X^T` and `L = Y Y^T` of a batch's features and the
    unbiased estimator of HSIC (minibatch CKA). Except for noise, the result does not depend on the
    batch size, and no batch need hold all examples.

    `HSIC(K, L) = (tr(K' L') + sum(K') sum(L') / ((n - 1) (n - 2)) - 2 sum(K' L') / (n - 2)) /
    (n (n - 3))`, where `K'` is `K` with a diagonal of zeros and the sums run over all entries.

    Args:
        name: the metric's name. Defaults to `"cka"`.
        dtype: the dtype of the result. Defaults to `keras.config.floatx()`.

    Returns:
        `result()`: a scalar. It is 1 if both are alike up to rotation and scale, near 0 if they are
        unrelated (by chance also below 0), and 0 before the first batch.

    Raises:
        ValueError: when updated, for a batch that is known to have fewer than 4 examples.

    Example:

    ```python
    metric = metrics.CKA()
    for features in np.random.rand(3, 16, 8):  # three batches of 16 examples
        metric.update_state(features, 2.0 * features)
    metric.result()  # 1.0
    ```

    Reference:
        - [Nguyen et al., 2021](https://arxiv.org/abs/2010.15327)
        - [Song et al., 2012](https://www.jmlr.org/papers/v13/song12a.html)
    """

    def __init__(self, name: str | None = "cka", dtype: str | None = None):
        super().__init__(name=name, dtype=dtype)
        self.both, self.of_teacher, self.of_student = (
            self.add_variable((), initializer="zeros", name=name)
            for name in ("both", "of_teacher", "of_student")
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch, of at least 4 examples.

        Args:
            y_true: the teacher's features, (batch, ...).
            y_pred: the student's features of the same examples, (batch, ...), of any width.
            sample_weight: weights, (batch,); examples of weight zero are left out, and all others
                count alike. Defaults to `None`, which counts all.
        """
        sides = [ops.cast(ops.convert_to_tensor(y), self.dtype) for y in (y_true, y_pred)]
        if sides[0].shape[0] is not None and sides[0].shape[0] < 4:
            raise ValueError(
                f"`{self.name}` needs batches of at least 4 examples. Received: "
                f"{sides[0].shape[0]}. Give larger batches, or drop the last one."
            )
        mask = None if sample_weight is None else ops.convert_to_tensor(sample_weight)
        present = masks.examples(mask, sides[0])
        teacher, student = (_products(flat(y), present) for y in sides)
        self.both.assign_add(_unbiased(teacher, student, present))
        self.of_teacher.assign_add(_unbiased(teacher, teacher, present))
        self.of_student.assign_add(_unbiased(student, student, present))

    def result(self):
        """Returns the alignment so far."""
        product = ops.convert_to_tensor(self.of_teacher) * self.of_student
        known = product > 0
        return ops.where(known, self.both / ops.sqrt(ops.where(known, product, 1.0)), 0.0)


def _products(features, present):
    """Returns products of pairs of different examples that count; the diagonal is zero."""
    kept = ops.where(ops.expand_dims(present, -1) > 0, features, 0.0)
    centred = geometry.centred(kept, present)  # HSIC stays the same, and keeps its digits
    return geometry.products(centred) * geometry.pairs(present)


def _unbiased(one, other, present):
    """Returns the unbiased estimate of HSIC; zero for fewer than four examples."""
    count = ops.sum(present)
    enough = count > 3
    n = ops.where(enough, count, 4.0)
    trace = ops.sum(one * other)
    sums = ops.sum(one) * ops.sum(other) / ((n - 1) * (n - 2))
    mixed = ops.sum(ops.sum(one, axis=0) * ops.sum(other, axis=0)) / (n - 2)
    return ops.where(enough, (trace + sums - 2 * mixed) / (n * (n - 3)), 0.0)
