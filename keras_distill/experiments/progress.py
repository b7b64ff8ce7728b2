"""Shows the progress of a training in one line."""

import sys
import time

import keras

EVERY = 30.0  # seconds between two lines if the output is no terminal


class Progress(keras.callbacks.Callback):
    """Prints one line per training. A terminal shows it at each epoch, a file at the end.

    If the output is no terminal, a long training prints a line every half a minute.

    Args:
        epochs: the number of epochs.
        stream: the stream to write to. Defaults to the standard output.
    """

    def __init__(self, epochs, stream=None):
        super().__init__()
        self.epochs, self.stream = epochs, stream or sys.stdout

    def on_train_begin(self, logs=None):
        self.begun = self.said = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        now = time.monotonic()
        done, last = epoch + 1, epoch + 1 == self.epochs
        left = (now - self.begun) / done * (self.epochs - done)
        ends = f"{now - self.begun:.0f} s" if last else f"{left:.0f} s left"
        line = "  ".join([f"epoch {done}/{self.epochs}", *_shown(logs or {}), ends])
        if self.stream.isatty():
            self._write(f"\r  {line}\x1b[K" + ("\n" if last else ""))
        elif last or now - self.said >= EVERY:
            self.said = now
            self._write(f"  {line}\n")

    def on_train_end(self, logs=None):
        if self.stream.isatty():
            self._write("\r")

    def _write(self, text):
        if keras.config.is_interactive_logging_enabled():
            self.stream.write(text)
            self.stream.flush()


def _shown(logs):
    """Returns the loss and the logs of the validation split as text."""
    names = [name for name in logs if name == "loss" or name.startswith("val_")]
    return [f"{name} {float(logs[name]):.4g}" for name in names]
