"""Targets that are computed once and read many times."""

from keras_distill.data.beam import write_targets_with_beam
from keras_distill.data.target_cache import read_targets, write_targets
from keras_distill.data.targets_on_disk import TargetsOnDisk
from keras_distill.data.verification import verify_targets

__all__ = [
    "TargetsOnDisk",
    "read_targets",
    "verify_targets",
    "write_targets",
    "write_targets_with_beam",
]
