"""Reports on trained models: their quality, their cost, and pages that show both."""

from keras_distill.report.cka_heat_map import cka_heat_map
from keras_distill.report.compare import compare
from keras_distill.report.comparison import Comparison, write_together
from keras_distill.report.costs import latency, operations_of, peak_memory, size_on_disk
from keras_distill.report.doubts import doubts
from keras_distill.report.measures import is_finite, measure, predictions, reliability, scores
from keras_distill.report.statistics import mcnemar, pareto, sign_flips
from keras_distill.report.summary import summaries, summarize, table, write

__all__ = [
    "Comparison",
    "cka_heat_map",
    "compare",
    "doubts",
    "is_finite",
    "latency",
    "mcnemar",
    "measure",
    "operations_of",
    "pareto",
    "peak_memory",
    "predictions",
    "reliability",
    "scores",
    "sign_flips",
    "size_on_disk",
    "summaries",
    "summarize",
    "table",
    "write",
    "write_together",
]
