"""Hides the logs of a backend that say nothing to who runs a command."""

import contextlib
import logging
import os
import re
import sys
import tempfile

NOISE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\)"
    rb"|[IWE]\d{4} \d\d:\d\d[:.\d]+ +\d+ [\w.]+:\d+\]"
    rb"|To enable the following instructions:"
    rb"|[IWE]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [\w./]+:\d+\]"
    rb"|INFO: Created TensorFlow Lite"
    rb"|loc\(|error: Lowering tensor list|error: failed while converting"  # of LiteRT's converter
)


def import_keras(verbose=False):
    """Imports Keras and its backend, and looks for devices, without the lines of their C++."""
    if "keras" in sys.modules:
        return
    with filtered(verbose):
        import keras

        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.config.list_physical_devices()
    if not verbose:
        logging.getLogger("tensorflow").addFilter(_is_not_retracing)


def _is_not_retracing(record):
    """Returns whether a log record is not TensorFlow's advice to trace less often.

    A command runs many models in one process, and each of them is traced once.
    """
    return "tf.function retracing" not in record.getMessage()


def filtered(verbose=False):
    """Returns a context that holds back lines of C++ from stderr, unless `verbose`."""
    return contextlib.nullcontext() if verbose else _filtered_stderr()


@contextlib.contextmanager
def _filtered_stderr():
    """Holds back stderr, then writes it without the C++ lines."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        screen = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
            held.seek(0)
            for line in held:
                if not NOISE.match(line):
                    os.write(2, line)
