"""Writes a trained model for use elsewhere, and checks what was written."""

from keras_distill.export.reload import answers, check_saved_model
from keras_distill.export.saved_model import (
    random_inputs,
    signature_of,
    write_saved_model,
    write_student,
)

__all__ = [
    "answers",
    "check_saved_model",
    "random_inputs",
    "signature_of",
    "write_saved_model",
    "write_student",
]
