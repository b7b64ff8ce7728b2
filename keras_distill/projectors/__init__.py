"""Projectors: layers that map the student's features to what a loss compares with the teacher's."""

from keras_distill.projectors.factors import Paraphraser, Translator
from keras_distill.projectors.fitting import fitting
from keras_distill.projectors.fusion import AttentionFusion, ReviewMechanism
from keras_distill.projectors.regressors import (
    MaskedGenerator,
    ReusedClassifierProjector,
    VariationalProjector,
)
from keras_distill.projectors.semantic import SemanticAttention, TwoSided

__all__ = [
    "AttentionFusion",
    "MaskedGenerator",
    "Paraphraser",
    "ReusedClassifierProjector",
    "ReviewMechanism",
    "SemanticAttention",
    "Translator",
    "TwoSided",
    "VariationalProjector",
    "fitting",
]
