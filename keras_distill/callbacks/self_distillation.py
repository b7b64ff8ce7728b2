"""Adds terms from a model's deep exit to its shallow ones, for one `fit`."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_distill.losses import DistillationLoss, KLDivergence
from keras_distill.losses.answers import class_ids
from keras_distill.schedules import is_number
from keras_distill.training.term import Term


class SelfDistillation(keras.callbacks.Callback):
    """Lets shallow exits learn from the deepest during one `fit`, from some epoch on.

    Each shallow exit gets the term `loss(z_deep, z_shallow)`, with no gradient for `z_deep`. The
    terms have a weight of zero until they open. They open at `start_epoch`. With a `margin` they
    open later: from `start_epoch - 1` on, the first epoch counts at whose end the deep exit leads
    every shallow one by the margin. They then stay open. Nothing is traced again. After `fit` the
    terms are removed.

    Each exit's accuracy on the training data is logged as `"<exit>_accuracy"`, and
    `"self_distillation"` is the weight of the terms.

    The distiller's checkpoint remembers whether the `margin` was reached, so a `fit` that resumes
    with `BackupAndRestore` continues with open terms.

    Args:
        deep: the name of the output that teaches, such as `"final"`.
        shallow: the names of the outputs that learn.
        loss: a loss between outputs. Defaults to `KLDivergence(temperature=3)`.
        hint: `{path of a shallow feature: path of a deep feature}`. They are compared by the mean
            squared error, with an "auto" projector if their widths differ. The projector needs an
            optimizer that is not built yet. Defaults to `None`.
        weight: the terms' weight when open, a non-negative number. Defaults to `1.0`.
        start_epoch: the first epoch, counted from 0, in which they may be open. Defaults to `0`.
        margin: by how much `monitor` of the deep exit must be better. Defaults to `None`, so that
            only the epoch decides.
        monitor: the metric after `"<exit>_"` in the logs, `"accuracy"` or another compiled metric,
            such as `"val_accuracy"` for `"val_<exit>_accuracy"`. A lower `"loss"` is better.
            Defaults to `"accuracy"` with a margin.
        accuracy: whether to log the exits' accuracies, which needs labels. Defaults to `True`.

    Raises:
        ValueError: if arguments do not fit each other, or the logs have no `monitor` after the
            first epoch.

    Example:

    ```python
    net = models.add_exits(student, {"exit_1": "block_1"})
    callback = callbacks.SelfDistillation("final", ["exit_1"], start_epoch=1)
    distiller = Distiller(net)
    distiller.compile("adam", loss)
    distiller.fit(x, y, epochs=2, callbacks=[callback])
    ```

    Reference:
        - [Zhang et al., 2019](https://arxiv.org/abs/1905.08094)
    """

    def __init__(
        self,
        deep: str,
        shallow: str | Sequence[str],
        *,
        loss: keras.losses.Loss | None = None,
        hint: dict[str, str] | None = None,
        weight: float = 1.0,
        start_epoch: int = 0,
        margin: float | None = None,
        monitor: str | None = None,
        accuracy: bool = True,
    ):
        super().__init__()
        self.deep, self.shallow = deep, [shallow] if isinstance(shallow, str) else list(shallow)
        self.weight, self.start_epoch = weight, start_epoch
        self.margin, self.monitor = margin, monitor or "accuracy"
        self.accuracy = accuracy
        self._check(monitor, hint)
        self._weight = keras.Variable(0.0, trainable=False, name="self_distillation_weight")
        self.terms = [*self._responses(loss), *self._hints(hint or {}), *self._accuracies()]
        self._led = None

    def set_model(self, model):
        super().set_model(model)
        if self.margin is not None:
            self._keep_led(model)

    def on_epoch_begin(self, epoch, logs=None):
        due = epoch >= self.start_epoch and (self.margin is None or bool(self._led.numpy()))
        self._weight.assign(self.weight if due else 0.0)

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        for term in self._measured:
            logs[term.exit] = logs.pop(term.name)
        logs["self_distillation"] = float(self._weight)
        if self.margin is not None and not self._led.numpy() and epoch >= self.start_epoch - 1:
            self._led.assign(float(self._lead(logs) >= self.margin))

    def on_train_end(self, logs=None):
        self._weight.assign(0.0)

    def _keep_led(self, distiller):
        """Makes a number that the distiller saves; resuming loads its value later."""
        self._led = distiller.keep(f"{self.terms[0].name}_led", 0.0)
        self._led.assign(0.0)

    def _responses(self, loss):
        loss = KLDivergence(temperature=3.0) if loss is None else loss
        return [
            Term(loss, student=f"output:{exit}", teacher=f"output:{self.deep}", source="self",
                 weight=self._weight, name=f"{exit}_from_{self.deep}")
            for exit in self.shallow
        ]  # fmt: skip

    def _hints(self, hint):
        return [
            Term("mse", student=shallow, teacher=deep, source="self", weight=self._weight,
                 projector="auto", name=f"{shallow}_hint".replace("/", "_"))
            for shallow, deep in hint.items()
        ]  # fmt: skip

    def _accuracies(self):
        self._measured = []
        for exit in [*self.shallow, self.deep] if self.accuracy else []:
            path = f"output:{exit}"
            term = Term(_Accuracy(), student=path, teacher=path, source="self", weight=0.0,
                        mask=None, name=f"accuracy_of_{exit}")  # fmt: skip
            term.exit = f"{exit}_accuracy"
            self._measured.append(term)
        return self._measured

    def _lead(self, logs):
        """Returns how far the deep exit is ahead of the best shallow one."""
        split, metric = "", self.monitor
        if metric.startswith("val_"):
            split, metric = "val_", metric.removeprefix("val_")
        names = [f"{split}{exit}_{metric}" for exit in (self.deep, *self.shallow)]
        missing = [name for name in names if name not in logs]
        if missing:
            raise ValueError(
                f"The logs must hold `monitor` for every exit. They lack {missing}. They hold "
                f"{', '.join(logs)}. Received: monitor={self.monitor}"
            )
        deep, *shallow = (logs[name] for name in names)
        return min(shallow) - deep if metric.endswith("loss") else deep - max(shallow)

    def _check(self, monitor, hint):
        if not self.shallow or self.deep in self.shallow:
            raise ValueError(
                "`shallow` must name at least one exit other than `deep`. Received: "
                f"deep={self.deep}, shallow={self.shallow}"
            )
        if not is_number(self.weight) or not self.weight >= 0:
            raise ValueError(
                f"`weight` must be a non-negative number. Received: weight={self.weight}"
            )
        if not isinstance(hint, (dict, type(None))):
            raise ValueError(
                "`hint` must be a dict that maps paths of shallow features to paths of deep "
                f"features. Received: hint={hint!r}"
            )
        if not isinstance(self.start_epoch, int) or self.start_epoch < 0:
            raise ValueError(
                "`start_epoch` must be a non-negative integer. Received: "
                f"start_epoch={self.start_epoch}"
            )
        if self.margin is None and monitor is not None:
            raise ValueError(f"`monitor` needs a `margin`. Give both. Received: monitor={monitor}")
        if self.margin is not None and not is_number(self.margin):
            raise ValueError(f"`margin` must be a number. Received: margin={self.margin}")
        if self.margin is not None and self.monitor == "accuracy" and not self.accuracy:
            raise ValueError('`monitor="accuracy"` needs `accuracy=True`. Received: accuracy=False')


class _Accuracy(DistillationLoss):
    """One where the likeliest class is the label, otherwise zero. It is only measured."""

    needs = ("labels",)

    def __init__(self):
        super().__init__(name="accuracy")

    def call(self, y_true, y_pred, labels):
        if labels is None:
            raise ValueError(
                "`SelfDistillation` logs accuracies, so it needs labels. Give labels to `fit`, or "
                "`accuracy=False` to the callback."
            )
        right = ops.argmax(y_pred, axis=-1) == class_ids(labels, y_pred, self.name)
        return ops.cast(right, y_pred.dtype)
