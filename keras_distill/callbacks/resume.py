"""Resumes a `fit` that was killed, as if it had not been interrupted."""

import contextlib
import os
import signal
import threading

import keras

from keras_distill import _files
from keras_distill._keras import epochs, trainer
from keras_distill._messages import say
from keras_distill.training import checkpoints, resuming

KEPT = 2  # the number of checkpoints: if the latest is damaged, the one before it is used
IN_USE = ".in-use"
GENERATORS = ("generators", "epoch_generators")  # fields of a `Place`


class Resume(keras.callbacks.Callback):
    """Saves the state of a training, and resumes a `fit` that was killed.

    Run the same script again. `fit` continues with the step after the last checkpoint, and ends
    with the weights of an uninterrupted run, bit for bit. The callback restores weights,
    optimizer, projectors, moving teachers, seeds of dropout, balanced weights, the metrics of the
    epoch, the random generators of PyTorch and the place in the shuffled data. To get the data in
    the same order, call `keras.utils.set_random_seed` before you make the model and the data.
    `fit` refuses another order.

    A checkpoint is written completely or not at all. If the latest is damaged, the callback warns
    and uses the one before it. The last one stays after the training. The same call then trains
    nothing, and a call with more epochs continues. A folder holds one training, and only one
    process may use it at a time. On several workers all read the folder, and the first one writes.

    On SIGTERM the callback saves after the current step and ends the process with the exit code
    143. On several workers it only ends the process, since the others may be in another step. After
    the last step of an epoch on JAX it waits for the end of the epoch, its validation included. On
    JAX with data of unknown length it waits for one more step, to see that there is one.

    To find its place, `fit` reads data again. It reads a `tf.data.Dataset` of known length and
    arrays for at most one epoch. It reads other data, and all data on JAX and PyTorch, from the
    beginning. It also does so if the training is finished, because another `fit` may continue
    with the same data. The state of other callbacks, such as the patience of `EarlyStopping`, is
    not restored.

    Args:
        folder: the folder of the checkpoints, local or any path that `tf.io.gfile` knows.
        every: the number of steps between two checkpoints, at least 1. There is also one at the
            end of each epoch. Defaults to `None`, which writes only these.

    Raises:
        ValueError: if `every` is out of range. In `fit`, if all checkpoints are damaged or belong
            to another model, or if the data come in another order.
        RuntimeError: in `fit`, if another process trains in the folder.
        TypeError: in `fit`, if the model is not a distiller.

    Example:

    ```python
    keras.utils.set_random_seed(0)
    distiller = Distiller(student, teacher=teacher)
    distiller.compile("adam", loss)
    distiller.fit(x, y, epochs=2, callbacks=[callbacks.Resume("runs/resumed", every=1000)])
    ```
    """

    def __init__(self, folder: str | os.PathLike[str], every: int | None = None):
        super().__init__()
        if every is not None and (isinstance(every, bool) or not int(every) == every or every < 1):
            raise ValueError(
                f"`every` must be a positive integer (steps) or `None`. Received: every={every}"
            )
        self.folder, self.every = os.fspath(folder), every
        self._loaded, self._distiller = None, None
        self._forget(resuming.Place(0, 0))

    def _forget(self, place):
        """Sets the place where the training begins, before any batch."""
        self._place, self._metrics, self._terminated = place, None, False
        self._pending = None  # a checkpoint that is written if another step follows

    # Around `fit`

    @contextlib.contextmanager
    def resuming(self, distiller):
        """Holds the folder for the time of a `fit`; yields the place where it begins, or `None`."""
        self._writes = trainer.is_first_worker(distiller)
        with contextlib.ExitStack() as held:
            if self._writes:
                _files.check_writable(self.folder)
                what = f"The training in {self.folder}"
                held.enter_context(_files.alone(os.path.join(self.folder, IN_USE), what))
                checkpoints.remove_unfinished(self.folder)
            self._loaded, self._distiller = checkpoints.latest(self.folder), distiller
            place = None
            if self._loaded is not None:
                path, about, groups = self._loaded
                generators = [tuple(groups[name]) for name in GENERATORS]
                place = resuming.Place(about["epoch"], about["step"], about["stopped"], *generators)
                say(f"Resuming from {path}.")
            self._forget(place or resuming.Place(0, 0))
            held.enter_context(self._listening())
            try:
                yield place
            finally:
                self._loaded = self._distiller = None

    @contextlib.contextmanager
    def _listening(self):
        """Within the block, records SIGTERM if this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(*_):
            self._terminated = True

        before = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
        self._end_if_told()  # SIGTERM came after the last step

    # Keras's hooks

    def on_train_begin(self, logs=None):
        if self._distiller is not self.model:
            raise TypeError(
                "`Resume` must be used with a `Distiller`. To train a student without a teacher, "
                f"wrap it in `Distiller(student, alpha=0)`. Received: {type(self.model).__name__}"
            )
        if self._loaded is not None:
            self.model.when_built(self._restore)

    def on_epoch_begin(self, epoch, logs=None):
        if self._loaded is not None:  # Keras has reset the metrics
            self._restore_logs()
            if not self._place.step:
                resuming.set_generators(self._place.generators)
            return
        self._place = resuming.Place(epoch, 0, False, *[resuming.generators()] * 2)
        if epoch or self._terminated:
            self._save()

    def on_train_batch_begin(self, batch, logs=None):
        if self._loaded is not None:
            self._restore_logs()  # now the metrics exist in any case
            if self._place.step:  # otherwise the epoch has drawn its order later
                resuming.set_generators(self._place.generators)
            self._loaded = None

    def on_epoch_end(self, epoch, logs=None):
        self._loaded = self._pending = None

    def on_train_batch_end(self, batch, logs=None):
        before, generators = self._place, resuming.generators()
        self._place = before._replace(step=batch + 1, generators=generators)
        due = self.every and self._place.step // self.every > before.step // self.every
        if self._pending is not None:  # this step has followed
            self._write(*self._pending)
            self._end_if_told()
        if due or self._terminated:
            self._save()

    def on_test_begin(self, logs=None):
        if self._distiller is not None:  # validation: Keras now resets the metrics of the epoch
            self._metrics = resuming.arrays(self.model.variables_of_logs())

    def on_test_batch_end(self, batch, logs=None):
        if self._terminated and self._metrics is not None:
            self._save()

    def on_test_end(self, logs=None):
        self._metrics = None

    def on_train_end(self, logs=None):
        if self._loaded is not None:  # all was done before
            self._restore_logs()
            resuming.set_generators(self._place.generators)
            return
        epoch, stopped = self._place.epoch + (self._place.step > 0), self.model.stop_training
        self._place = resuming.Place(epoch, 0, bool(stopped), *[resuming.generators()] * 2)
        self._save()

    # Checkpoints

    def _save(self):
        """Writes a checkpoint, and ends the process if SIGTERM asked for it."""
        place, steps = self._place, self.params["steps"]
        if epochs.NEEDS_A_STEP and place.step and place.step == steps:
            return  # the epoch ends soon, and has a checkpoint
        model, several = self.model, trainer.is_one_of_workers(self.model)
        if not (several and self._terminated):  # all workers must take part in reading
            groups = {"variables": resuming.arrays(model.changing_variables())}
            if place.step:
                found = self._metrics
                if found is None:
                    found = resuming.arrays(model.variables_of_logs())
                groups["metrics"] = found
            groups |= {name: getattr(place, name) for name in GENERATORS}
            about = {
                "epoch": place.epoch, "step": place.step, "stopped": place.stopped,
                "first_batch": resuming.digest(model.objective.first_batch),
                "history": {name: [float(v) for v in values]
                            for name, values in model.history.history.items()},
                "epochs": list(model.history.epoch),
            }  # fmt: skip
            if epochs.NEEDS_A_STEP and place.step and steps is None:
                self._pending = place, about, groups
                return
            self._write(place, about, groups)
        self._end_if_told()

    def _write(self, place, about, groups):
        self._pending = None
        if self._writes:
            checkpoints.write(checkpoints.path_of(self.folder, place), about, groups)
            checkpoints.keep(self.folder, KEPT)

    def _end_if_told(self):
        if self._terminated:
            raise SystemExit(128 + signal.SIGTERM)

    def _restore(self):
        (path, about, groups), model = self._loaded, self.model
        before, now = about["first_batch"], resuming.digest(model.objective.first_batch)
        if self._writes and None not in (before, now) and before != now:  # others differ
            raise ValueError(
                "The first batch differs from that of the training to resume. Call "
                "`keras.utils.set_random_seed` before you make the model and the data, or give "
                f"`shuffle` a seed. Choose another folder for other data. Received: {self.folder}"
            )
        optimizer = model.optimizer
        if optimizer is not None and not optimizer.built:
            optimizer.build(model.trainable_variables)
        resuming.assign(model.changing_variables(), groups["variables"], path)

    def _restore_logs(self):
        path, about, groups = self._loaded
        self.model.history.history = {**about["history"]}
        self.model.history.epoch = [*about["epochs"]]
        variables = self.model.variables_of_logs()
        if "metrics" in groups and len(variables) == len(groups["metrics"]):
            resuming.assign(variables, groups["metrics"], path)
