"""Experiments: a student trained alone and distilled, over seeds, and compared."""

from keras_distill.experiments.experiment import Experiment

__all__ = ["Experiment"]
