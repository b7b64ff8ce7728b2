"""Losses on relations between predictions, over classes and over the batch."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_distill.losses import masks
from keras_distill.losses.arithmetic import length
from keras_distill.losses.distillation_loss import DistillationLoss
from keras_distill.losses.softened import (
    FLAT,
    SoftenedLoss,
    flat_kl,
    forward_kl,
    log_probabilities,
    scaled,
)
from keras_distill.schedules import Hyperparameter, check


@keras.saving.register_keras_serializable(package="keras_distill")
class DIST(SoftenedLoss):
    """Correlation of predictions within each example and within each class (DIST).

    `loss = T^2 * (beta * (1 - r_example) + gamma * (1 - r_class))`. `r` is the Pearson correlation
    of the teacher's and the student's `softmax(logits / T)`: over the classes of an example, and
    over the batch for a class, averaged over classes. Tokens and pixels count as examples. As in
    the authors' code, `r` divides by the product of the norms plus 1e-8.

    Args:
        beta: the weight of the correlation over classes. Defaults to `1.0`.
        gamma: the weight of the correlation over examples. Defaults to `1.0`.
        temperature: `T`, positive: a number, a schedule or a `keras.Variable`. Defaults to `1.0`.
        name: the loss's name. Defaults to `"dist"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's logits, (batch, ..., classes).
        y_pred: the student's logits, of the same shape.
        mask: the weights of examples or tokens; those of weight 0 do not enter the correlations.

    Returns:
        One value per example, token or pixel: (batch, ...).

    Raises:
        ValueError: for a negative `beta` or `gamma`, or a `temperature` that is not positive.

    Example:

    ```python
    Term(losses.DIST(beta=2.0, gamma=2.0, temperature=4.0))
    ```

    Reference:
        - [Huang et al., 2022](https://arxiv.org/abs/2205.10536)
    """

    needs = ("mask",)
    config = ("beta", "gamma")
    across_batch = True

    def __init__(
        self,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: Hyperparameter | str = 1.0,
        **kwargs,
    ):
        super().__init__(temperature, **kwargs)
        self.beta = float(check("beta", beta, low=0))
        self.gamma = float(check("gamma", gamma, low=0))

    def call(self, y_true, y_pred, mask=None, temperature=None):
        temperature = self.temperature_now(y_pred, temperature)
        sides = (ops.softmax(scaled(y, temperature), axis=-1) for y in (y_true, y_pred))
        teacher, student = map(_rows, sides)
        counts = _rows(ops.expand_dims(masks.positions(mask, y_pred), -1))
        of_example = correlation(teacher, student, ops.ones_like(teacher[:1]), axis=1)
        of_class = ops.mean(correlation(teacher, student, counts, axis=0))
        values = self.beta * (1 - of_example) + self.gamma * (1 - of_class)
        return temperature**2 * ops.reshape(values, ops.shape(y_pred)[:-1])


def _rows(values):
    return ops.reshape(values, (-1, values.shape[-1]))


def correlation(one, other, counts, axis):
    """Returns Pearson's correlation over the entries whose `counts` are 1; 0 for a constant."""
    size = masks.at_least_one(ops.sum(counts, axis=axis, keepdims=True))
    one, other = ((x - ops.sum(x * counts, axis=axis, keepdims=True) / size) * counts
                  for x in (one, other))  # fmt: skip
    norms = length(one, axis) * length(other, axis)
    return ops.sum(one * other, axis=axis) / (norms + 1e-8)


@keras.saving.register_keras_serializable(package="keras_distill")
class MultiLevelLogits(DistillationLoss):
    """Predictions aligned at the levels of example, batch and class, at several temperatures.

    `loss = sum_T (instance * T^2 * KL(P_t || P_s) + batch * |P_t P_t' - P_s P_s'|^2 / examples
    + classes * |P_t' P_t - P_s' P_s|^2 / num_classes)`. `P = softmax(logits / T)` has a row for
    each example, and the norms are squared Frobenius norms. The authors' code also shows each input
    in two views, and leaves out the half of the examples of which the teacher is surer. To do so,
    give such a batch and a mask.

    Args:
        temperatures: the temperatures, positive numbers. Defaults to `(2, 3, 4, 5, 6)`.
        instance: the weight of the examples' level. Defaults to `1.0`.
        batch: the weight of the batch's level. Defaults to `1.0`.
        classes: the weight of the classes' level. Defaults to `1.0`.
        name: the loss's name. Defaults to `"multi_level_logits"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's logits, (batch, classes).
        y_pred: the student's logits, of the same shape.
        mask: the weights of examples; those of weight 0 enter neither batch nor classes.

    Returns:
        One value per example: (batch,).

    Raises:
        ValueError: for a negative weight, or a temperature that is not positive.

    Example:

    ```python
    Term(losses.MultiLevelLogits(temperatures=(2.0, 4.0)), weight=0.1)
    ```

    Reference:
        - [Jin et al., 2023](https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html)
    """

    needs = ("mask",)
    config = ("temperatures", "instance", "batch", "classes")
    expects_logits = True
    across_batch = True

    def __init__(
        self,
        temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
        instance: float = 1.0,
        batch: float = 1.0,
        classes: int = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.temperatures = [
            float(check("temperatures", one, low=0, strict=True)) for one in temperatures
        ]
        self.instance = float(check("instance", instance, low=0))
        self.batch = float(check("batch", batch, low=0))
        self.classes = float(check("classes", classes, low=0))

    def call(self, y_true, y_pred, mask=None):
        if len(y_pred.shape) != 2:
            raise ValueError(
                f"`{self.name}` takes logits of shape (batch, classes). "
                f"Received: {tuple(y_pred.shape)}"
            )
        counts = masks.positions(mask, y_pred)
        return sum(self._at(one, y_true, y_pred, counts) for one in self.temperatures)

    def _at(self, temperature, y_true, y_pred, counts):
        teacher, student = (log_probabilities(y / temperature) for y in (y_true, y_pred))
        kl = forward_kl if temperature < FLAT else flat_kl
        values = self.instance * temperature**2 * kl(teacher, student)
        teacher, student = (ops.exp(side) * counts[:, None] for side in (teacher, student))
        rows = teacher @ ops.transpose(teacher) - student @ ops.transpose(student)
        columns = ops.transpose(teacher) @ teacher - ops.transpose(student) @ student
        values += self.batch * ops.sum(ops.square(rows), axis=-1)
        return values + self.classes * ops.sum(ops.square(columns)) / y_pred.shape[-1]
