"""What a trained model is worth: quality, cost, and the page that says so."""

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
