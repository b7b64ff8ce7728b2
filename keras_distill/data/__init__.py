"""Targets that are computed once and read many times, and answers that models generate."""

import importlib

# Loaded when first used: caches need TensorFlow on every backend, since its tf.data reads them.
_PLACES = {
    "OnPolicy": "on_policy",
    "TargetsOnDisk": "targets_on_disk",
    "completion_only": "completions",
    "generate": "answers",
    "read_targets": "target_cache",
    "verify_targets": "verification",
    "without_autotune": "autotuning",
    "write_targets": "target_cache",
    "write_targets_with_beam": "beam",
}

__all__ = [*_PLACES]


def __getattr__(name):
    if name in _PLACES:
        return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__():
    return sorted(__all__)
