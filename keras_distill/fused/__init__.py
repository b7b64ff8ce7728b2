"""Losses for large vocabularies, computed from hidden states and embeddings by blocks of words."""

from keras_distill.fused.head import Head
from keras_distill.fused.measuring import Measured, measure, takes

__all__ = ["Head", "Measured", "measure", "takes"]
