"""Metrics of how near a student is to its teacher, as `keras.metrics.Metric`s."""

from keras_distill.losses.kernel_alignment import cka
from keras_distill.metrics.alignment import CKA
from keras_distill.metrics.outputs import Agreement, KLToTeacher

__all__ = ["Agreement", "CKA", "KLToTeacher", "cka"]
