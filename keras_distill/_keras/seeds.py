"""Which random numbers are drawn from Keras's global generator."""

from keras.src.backend.common import global_state

GENERATOR = "global_seed_generator"


def global_was_used():
    """Whether anything was drawn from it since `keras.backend.clear_session`.

    Keras makes the generator when it is first asked, and a traced step goes on with the one that it
    was traced with, whatever seed is set later. Keras has no public name for it.
    """
    return global_state.get_global_attribute(GENERATOR) is not None
