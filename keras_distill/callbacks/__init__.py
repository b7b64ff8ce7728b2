"""Callbacks for a distiller's `fit`."""

from keras_distill.callbacks.self_distillation import SelfDistillation
from keras_distill.callbacks.teacher_agreement import TeacherAgreement

__all__ = ["SelfDistillation", "TeacherAgreement"]
