"""Where experiments say what they do: on the screen, or in the log where that is switched off."""

import keras
from absl import logging


def say(text):
    """Prints a line, or logs it after `keras.config.disable_interactive_logging()`."""
    if keras.config.is_interactive_logging_enabled():
        print(text, flush=True)
    else:
        logging.info(text)
