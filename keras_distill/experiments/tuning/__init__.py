"""Tunes distillation: a sweep over one experiment's settings, on its validation split."""

from keras_distill.experiments.tuning.search import tune
from keras_distill.experiments.tuning.settings import chosen, combinations

__all__ = ["chosen", "combinations", "tune"]
