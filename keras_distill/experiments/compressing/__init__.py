"""Finds the smallest student of a teacher that is good enough."""

from keras_distill.experiments.compressing.compress import compress
from keras_distill.experiments.compressing.students import Proposal, proposals

__all__ = ["Proposal", "compress", "proposals"]
