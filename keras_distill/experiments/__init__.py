"""Experiments: train arms over seeds and compare them, such as a student alone and distilled."""

from keras_distill.experiments.experiment import Experiment
from keras_distill.experiments.run_folder import RunFolder
from keras_distill.experiments.runner import Arm, Runner
from keras_distill.experiments.table import markdown, over_seeds

__all__ = ["Arm", "Experiment", "RunFolder", "Runner", "markdown", "over_seeds"]
