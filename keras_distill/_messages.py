"""Prints the messages of the package if `verbose` asks for them."""

import keras
from absl import logging


def say(message):
    """Prints a message, or logs it after `keras.config.disable_interactive_logging()`."""
    if keras.config.is_interactive_logging_enabled():
        print(message, flush=True)
    else:
        logging.info(message)
