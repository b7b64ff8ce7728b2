"""What a trained model is worth: quality, cost, and the page that says so."""

from keras_distill.report.cka_heat_map import cka_heat_map
from keras_distill.report.measures import (
    doubts,
    latency,
    measure,
    predictions,
    reliability,
    scores,
    size_on_disk,
    summaries,
    summarize,
    table,
    write,
)

__all__ = [
    "cka_heat_map",
    "doubts",
    "latency",
    "measure",
    "predictions",
    "reliability",
    "scores",
    "size_on_disk",
    "summaries",
    "summarize",
    "table",
    "write",
]
