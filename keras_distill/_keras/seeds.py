"""Tells whether random numbers were drawn from Keras's global generator."""

from keras.src.backend.common import global_state

GENERATOR = "global_seed_generator"


def global_was_used():
    """Returns whether anything was drawn from it since `keras.backend.clear_session`.

    Keras makes the generator at the first draw. A traced step keeps the generator with which it was
    traced, whatever seed is set later. Keras has no public name for it.
    """
    return global_state.get_global_attribute(GENERATOR) is not None
