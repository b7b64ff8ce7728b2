"""Keras's own losses, as distillation losses."""

from collections.abc import Callable
from typing import Any

import keras

from keras_distill.losses.distillation_loss import DistillationLoss


@keras.saving.register_keras_serializable(package="keras_distill")
class KerasLoss(DistillationLoss):
    """A loss of Keras, between the teacher's value and the student's.

    `values = loss.call(teacher, student)`. It must reduce over features only, as Keras's own do,
    and return one value per example or token.

    Args:
        loss: a `keras.losses.Loss`, or a function of `(y_true, y_pred)`.
        name: the loss's name. Defaults to that of `loss`.
        **kwargs: as in `DistillationLoss`.

    Call arguments:
        y_true: the teacher's value, (batch, ...).
        y_pred: the student's value, of the same shape.

    Returns:
        One value per example or token: (batch, ...).
    """

    config = ("loss",)

    def __init__(self, loss, name=None, **kwargs):
        known = isinstance(loss, keras.losses.Loss)
        kwargs.setdefault("dtype", loss.dtype if known else None)
        super().__init__(name=name or (loss.name if known else loss.__name__), **kwargs)
        self.loss = loss
        self._formula = loss.call if known else loss
        if is_sparse(loss):  # the teacher's class ids, beside the student's row of classes
            self.same_shape = False

    def call(self, y_true, y_pred):
        if is_sparse(self.loss) and len(y_true.shape) == len(y_pred.shape) != 1:
            if y_true.shape[-1] != 1:
                raise ValueError(
                    f"`{self.name}` takes class ids from the teacher. Give "
                    "`losses.SoftCrossEntropy`, which takes its logits, or "
                    "`ModelTeacher(lambda x: keras.ops.argmax(model(x, training=False), -1))`. "
                    "Received: "
                    f"teacher {tuple(y_true.shape)}, student {tuple(y_pred.shape)}"
                )
        return self._formula(y_true, y_pred)


def is_sparse(loss):
    """Returns whether a loss of Keras takes class ids, without the axis of the predictions."""
    kind, function = (keras.losses.SparseCategoricalCrossentropy,
                      keras.losses.sparse_categorical_crossentropy)  # fmt: skip
    return isinstance(loss, kind) or loss is function


def argument_of(loss, name, default):
    """Returns an argument of a Keras loss. Keras 3.16 keeps some in the configuration alone."""
    if hasattr(loss, name) or not isinstance(loss, keras.losses.Loss):
        return getattr(loss, name, default)
    return loss.get_config().get(name, default)


def as_distillation_loss(
    loss: keras.losses.Loss | str | Callable[[Any, Any], Any]
) -> DistillationLoss:
    """Returns any loss that a `Term` takes, as a `DistillationLoss`.

    Args:
        loss: a `DistillationLoss`, which is returned as it is; or a `keras.losses.Loss`, its name,
            or a function of `(y_true, y_pred)`. These become a `KerasLoss`.

    Returns:
        A `DistillationLoss`.

    Raises:
        ValueError: for Keras's `KLDivergence`, which takes probabilities.
        TypeError: for anything else.

    Example:

    ```python
    losses.as_distillation_loss("mse").name  # "mean_squared_error"
    ```
    """
    found = keras.losses.get(loss)
    if found is keras.losses.kl_divergence or isinstance(found, keras.losses.KLDivergence):
        raise ValueError(
            "Keras's `KLDivergence` takes probabilities and clips them. Give "
            "`keras_distill.losses.KLDivergence(temperature=...)`, which takes logits."
        )
    if isinstance(found, DistillationLoss):
        return found
    if isinstance(found, keras.losses.Loss) or callable(found):
        return KerasLoss(found)
    raise TypeError(f"`loss` must be a Keras loss or its name. Received: loss={loss!r}")
