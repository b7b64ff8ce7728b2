"""Targets that are computed once and read many times, and answers that models generate."""

from keras_distill.data.autotuning import without_autotune
from keras_distill.data.beam import write_targets_with_beam
from keras_distill.data.generate import generate
from keras_distill.data.on_policy import on_policy, prompt_masked
from keras_distill.data.target_cache import read_targets, write_targets
from keras_distill.data.targets_on_disk import TargetsOnDisk
from keras_distill.data.verification import verify_targets

__all__ = [
    "TargetsOnDisk",
    "generate",
    "on_policy",
    "prompt_masked",
    "read_targets",
    "verify_targets",
    "without_autotune",
    "write_targets",
    "write_targets_with_beam",
]
