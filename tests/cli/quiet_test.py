"""Which lines a command holds back, and which it lets through."""

import logging
import os

from keras_distill.cli import quiet


def test_the_advice_to_trace_less_often_is_held_back(caplog):
    logger = logging.getLogger("quiet_test")
    logger.addFilter(quiet._is_not_retracing)
    logger.warning("5 out of the last %d calls triggered tf.function retracing. It is slow.", 5)
    logger.warning("Gradients do not exist.")
    assert caplog.messages == ["Gradients do not exist."]


def test_lines_of_cpp_are_held_back_and_others_come_through(capfd):
    lines = [
        b"I0000 00:00:1796130323.561972    1439 port.cc:153] oneDNN custom operations are on.\n",
        b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n",
        b"keras_distill train: the folder exists.\n",
    ]
    with quiet.filtered():
        os.write(2, b"".join(lines))
    assert capfd.readouterr().err.encode() == lines[-1]
    with quiet.filtered(verbose=True):
        os.write(2, b"".join(lines))
    assert capfd.readouterr().err.encode() == b"".join(lines)
