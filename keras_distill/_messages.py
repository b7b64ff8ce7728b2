"""What the package says while it works, through Keras's own switch."""

import keras
from absl import logging


def say(message):
    """Prints a line; with `keras.config.disable_interactive_logging()` it is logged instead."""
    if keras.config.is_interactive_logging_enabled():
        print(message, flush=True)
    else:
        logging.info(message)
