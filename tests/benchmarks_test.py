"""What the benchmark of losses is given."""

import inspect
import pathlib
import sys

from keras_distill import losses

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "benchmarks"))
from loss_shapes import CASES  # noqa: E402


def test_every_loss_is_timed():
    exported = {name for name in losses.__all__ if inspect.isclass(getattr(losses, name))}
    assert {*CASES} == exported - {"DistillationLoss"}
