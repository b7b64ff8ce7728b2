"""Writes a trained model for use elsewhere, and checks the written files."""

from keras_distill.export.exported import Exported
from keras_distill.export.parity import Parity
from keras_distill.export.reload import answers, check_saved_model
from keras_distill.export.saved_model import write_saved_model, write_student
from keras_distill.export.signature import random_inputs, signature_of
from keras_distill.export.write import write

__all__ = [
    "Exported",
    "Parity",
    "answers",
    "check_saved_model",
    "random_inputs",
    "signature_of",
    "write",
    "write_saved_model",
    "write_student",
]
