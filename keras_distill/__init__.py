"""Knowledge distillation for Keras.

A `Distiller` trains a student with `fit`. A `Teacher` is a source of targets. A `Term` says what to
compare, where, and with which loss.

Names are imported when they are first used, so losses and projectors work on every Keras backend.
"""

import importlib

__version__ = "0.1.0"

_MODULES = (
    "callbacks",
    "data",
    "experiments",
    "export",
    "fused",
    "losses",
    "metrics",
    "models",
    "projectors",
    "recipes",
    "report",
    "schedules",
    "taps",
    "teachers",
)
_NAMES = {
    "Batch": "batch",
    "Supervision": "batch",
    "TopK": "batch",
    "Distiller": "training.distiller",
    "Experiment": "experiments",
    "compress": "experiments.compressing",
    "CachedTeacher": "teachers",
    "EMATeacher": "teachers",
    "EnsembleTeacher": "teachers",
    "ModelTeacher": "teachers",
    "Teacher": "teachers",
    "Term": "training.term",
}

__all__ = ["__version__", *_MODULES, *_NAMES]


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"keras_distill.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"keras_distill.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'keras_distill' has no attribute '{name}'")


def __dir__():
    return sorted(__all__)
