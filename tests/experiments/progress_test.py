"""One line a training."""

import io

import keras
import numpy as np

from keras_distill.experiments.progress import Progress

X = np.ones((4, 2), "float32")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def trained(stream):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(X, X[:, :1], validation_data=(X, X[:, :1]), epochs=3, verbose=0,
              callbacks=[Progress(3, stream)])  # fmt: skip
    return stream.getvalue()


def test_a_file_gets_a_line_at_the_end():
    said = trained(io.StringIO())
    assert said.count("\n") == 1 and said.startswith("  epoch 3/3  loss ")
    assert "val_loss" in said


def test_a_terminal_gets_one_line_that_is_written_anew():
    said = trained(Terminal())
    assert said.count("\n") == 1
    lines = said.split("\r")[1:]
    assert all(f"epoch {n}/3" in line for n, line in zip((1, 2, 3), lines, strict=False))
    assert len(lines) == 4  # and back to the beginning of the next one
