"""Logs the values of alpha, weights and temperatures."""

import keras

from keras_distill import schedules


class ScheduleLogger(keras.callbacks.Callback):
    """Logs alpha, the terms' weights and their temperatures at each epoch's end.

    `alpha`, `{term}_weight` and `{term}_temperature` are the values of the epoch's last step.
    Put callbacks that read the logs (`TensorBoard`, `CSVLogger`) after it in the list.

    Example:

    ```python
    alpha = keras.optimizers.schedules.CosineDecay(0.9, decay_steps=10_000)
    distiller = Distiller(student, teacher=teacher, alpha=alpha)
    distiller.compile("adam", loss)
    logger = callbacks.ScheduleLogger()
    distiller.fit(x, y, callbacks=[logger, keras.callbacks.CSVLogger("log.csv")])
    ```
    """

    def on_epoch_end(self, epoch, logs=None):
        objective = self.model.objective
        updates = keras.ops.convert_to_numpy(self.model.optimizer.iterations)
        step = max(int(updates) - 1, 0)
        for knob in objective.knobs():
            logs[knob.name] = schedules.number_at(knob.value, step)
