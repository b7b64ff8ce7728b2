"""From a teacher to the smallest student that is good enough."""

from keras_distill.experiments.compressing.compress import compress
from keras_distill.experiments.compressing.students import Proposal, proposals

__all__ = ["Proposal", "compress", "proposals"]
