"""Callbacks for a distiller's `fit`."""

from keras_distill.callbacks.balance_terms import BalanceTerms
from keras_distill.callbacks.feature_hook import FeatureHook
from keras_distill.callbacks.resume import Resume
from keras_distill.callbacks.schedule_logger import ScheduleLogger
from keras_distill.callbacks.self_distillation import SelfDistillation
from keras_distill.callbacks.student_checkpoint import StudentCheckpoint
from keras_distill.callbacks.teacher_agreement import TeacherAgreement

__all__ = [
    "BalanceTerms",
    "FeatureHook",
    "Resume",
    "ScheduleLogger",
    "SelfDistillation",
    "StudentCheckpoint",
    "TeacherAgreement",
]
