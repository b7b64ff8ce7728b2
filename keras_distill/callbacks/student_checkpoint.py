"""Saves the best student so far in a file of its own."""

import math
import os
import warnings
from os import PathLike

import keras

from keras_distill import _files
from keras_distill._keras import trainer
from keras_distill._messages import say

MORE = ("acc", "auc", "agreement", "cka", "precision", "recall", "f1", "iou", "bleu")
LESS = ("loss", "error", "mse", "mae", "kl", "divergence", "perplexity")


class StudentCheckpoint(keras.callbacks.Callback):
    """Saves the student alone whenever a logged metric is better than before.

    The file loads with `keras.saving.load_model`, without this package. It is written beside its
    place and renamed when it is complete, so an interruption leaves the last good file. On several
    workers only the first one writes.

    Args:
        filepath: a path that ends in `.keras`, or in `.weights.h5` for weights alone. It may hold
            `{epoch:02d}` (counted from 1) and logged names such as `{val_accuracy:.3f}`.
        monitor: any name in the logs, such as a compiled metric, a term, `"val_loss"`, or the log
            of a callback before this one in the list, such as `"teacher_agreement"`. Defaults to
            `"val_loss"`.
        mode: `"min"`, `"max"`, or `"auto"`, which decides by the name. Defaults to `"auto"`.
        save_best_only: `False` to save at every epoch's end. Defaults to `True`.
        initial_value_threshold: a value that the first epoch must beat, for a `fit` that is
            resumed. Defaults to `None`.
        verbose: 1 prints what is saved and why. Defaults to 0.

    Raises:
        ValueError: if the file type or the mode is unknown, or the name does not tell the mode.

    Example:

    ```python
    held_out = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    agreement = callbacks.TeacherAgreement(held_out)
    best = callbacks.StudentCheckpoint("best.keras", monitor="teacher_agreement")
    distiller = Distiller(student, teacher=teacher)
    distiller.compile("adam", loss)
    distiller.fit(x, y, callbacks=[agreement, best])
    ```
    """

    def __init__(
        self,
        filepath: str | PathLike[str],
        monitor: str = "val_loss",
        mode: str = "auto",
        *,
        save_best_only: bool = True,
        initial_value_threshold: float | None = None,
        verbose: int = 0,
    ):
        super().__init__()
        self.filepath = os.fspath(filepath)
        if not self.filepath.endswith((".keras", ".weights.h5")):
            raise ValueError(
                "`filepath` must end in `.keras` for a model, or in `.weights.h5` for its weights. "
                f"Received: filepath={self.filepath}"
            )
        self.monitor, self.save_best_only, self.verbose = monitor, save_best_only, verbose
        self.mode = _mode(mode, monitor) if save_best_only else mode
        self.best = initial_value_threshold

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        if self.save_best_only and not self._is_better(logs):
            return
        if not trainer.is_first_worker(self.model):
            return
        path = self._path(epoch, logs)
        _write(getattr(self.model, "student", self.model), path)
        if self.verbose:
            value = f"{self.monitor} is {logs[self.monitor]:.5g}: " if self.save_best_only else ""
            say(f"\nEpoch {epoch + 1}: {value}saved {path}")

    def _is_better(self, logs):
        if self.monitor not in logs:
            warnings.warn(
                f"`StudentCheckpoint` saved nothing, because the logs of this epoch hold no "
                f"`{self.monitor}`. They hold {', '.join(logs)}.",
                stacklevel=2,
            )
            return False
        value = float(logs[self.monitor])
        if math.isnan(value):
            return False
        better = self.best is None or (
            value < self.best if self.mode == "min" else value > self.best
        )
        self.best = value if better else self.best
        return better

    def _path(self, epoch, logs):
        try:
            return self.filepath.format(epoch=epoch + 1, **logs)
        except KeyError as error:
            raise ValueError(
                f"`filepath` uses {error}, which the logs do not hold. They hold epoch, "
                f"{', '.join(logs)}. Received: filepath={self.filepath}"
            ) from error


def _mode(mode, monitor):
    if mode in ("min", "max"):
        return mode
    if mode != "auto":
        raise ValueError(f'`mode` must be "auto", "min" or "max". Received: mode={mode!r}')
    more, less = (any(part in monitor for part in parts) for parts in (MORE, LESS))
    if more == less:
        raise ValueError(
            f"The name `{monitor}` does not tell whether higher or lower is better. Give "
            '`mode="min"` or `mode="max"`.'
        )
    return "max" if more else "min"


def _write(student, path):
    if folder := os.path.dirname(path):
        _files.make_folder(folder)
    save = student.save_weights if path.endswith(".weights.h5") else student.save
    with _files.whole(path) as part:
        save(part, overwrite=True)
