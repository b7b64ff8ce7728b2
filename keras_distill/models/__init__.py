"""Models made from other models: with exits, in cohorts, or cut to a smaller size."""

from keras_distill.models.exits.cascade import Cascade, early_exit
from keras_distill.models.exits.early_exits import add_exits, feature_path, keep_exit
from keras_distill.models.exits.exit_report import cheapest, exit_report, plot_exits
from keras_distill.models.exits.operations import operations
from keras_distill.models.peers.branches import gated_ensemble
from keras_distill.models.peers.cohort import Cohort, cohort
from keras_distill.models.peers.learning_rates import scale_learning_rates
from keras_distill.models.quantization.aware import quantization_aware
from keras_distill.models.shrinking.depth import depth_of
from keras_distill.models.shrinking.shrink import shrink
from keras_distill.models.shrinking.vocabulary import common_tokens, kept_tokens, seen_tokens

__all__ = [
    "Cascade",
    "Cohort",
    "add_exits",
    "cheapest",
    "cohort",
    "common_tokens",
    "depth_of",
    "early_exit",
    "exit_report",
    "feature_path",
    "gated_ensemble",
    "keep_exit",
    "kept_tokens",
    "operations",
    "plot_exits",
    "quantization_aware",
    "scale_learning_rates",
    "seen_tokens",
    "shrink",
]
